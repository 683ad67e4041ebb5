// A real GPU, on a stream of its own.
#pragma once

#include <string>
#include <vector>

#include "device.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int number);
  ~CudaDevice() override;

  void* allocate(size_t n_bytes) override;
  void release(void* memory) noexcept override;
  uint64_t n_free_bytes() override;
  void upload(void* to, const void* from, size_t n_bytes) override;
  void download(void* to, const void* from, size_t n_bytes) override;
  void zero(void* to, size_t n_bytes) override;
  void arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words) override;
  void count(const Count& count) override;
  void scan(const Scan& scan) override;
  LeastQueries least_queries() override;
  void sort(const Sort& sort, size_t n_queries) override;
  size_t n_shared_bytes_a_tile() override;
  void run_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes) override;
  void finish(const Finish& finish) override;
  void follow(Stream stream) override;
  void wait() override;

 private:
  int number_;
  Stream stream_ = nullptr;
};

struct DeviceFacts {
  std::string name;
  int major, minor;  // compute capability
  int n_multiprocessors;
  uint64_t n_bytes;
};

struct Versions {
  int driver, runtime;  // 1000 * major + 10 * minor; driver: 0 where there is none
};

// Every GPU; none, and the reason why, where CUDA sees none. None of them is made use of: that would take memory of
// each, and may be refused. Throws CudaFailure for what it then cannot say of one.
std::vector<DeviceFacts> device_facts(std::string& why_none);
// Makes use of the GPU. Throws CudaFailure where that is refused, as where another process has it for itself.
uint64_t n_free_bytes(int number);
Versions versions();

}  // namespace cuda
}  // namespace athsearch
