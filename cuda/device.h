// What searching and encoding ask of a GPU: memory, copies and launches. Tests put an emulated one in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "finish.h"
#include "scan.h"
#include "sort.h"
#include "stage.h"
#include "stream.h"

namespace athsearch {
namespace cuda {

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // Throws OutOfMemory.
  virtual void* allocate(size_t n_bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  virtual uint64_t n_free_bytes() = 0;

  // Everything below happens in the order it was asked for; only download waits. `from` may be changed after upload.
  virtual void upload(void* to, const void* from, size_t n_bytes) = 0;
  virtual void download(void* to, const void* from, size_t n_bytes) = 0;
  virtual void zero(void* to, size_t n_bytes) = 0;
  // Rows as callers have them, row-major [n_rows, n_words], to where `Codes` has rows from first_row on.
  virtual void arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row,
                       uint64_t* words) = 0;
  virtual void count(const Count& count) = 0;
  virtual void scan(const Scan& scan) = 0;
  // Throws KernelUnavailable.
  virtual LeastQueries least_queries() = 0;
  virtual void sort(const Sort& sort, size_t n_queries) = 0;

  // Shared memory that a block of a network's stage should have at most, so that several run at once.
  virtual size_t n_shared_bytes_a_tile() = 0;
  virtual void run_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes) = 0;
  virtual void finish(const Finish& finish) = 0;
  // What is asked for from now on happens after what was asked for in that stream, which may be another library's.
  virtual void follow(Stream stream) = 0;
  // Until everything that was asked for has happened.
  virtual void wait() = 0;
};

// Memory of a device that grows on demand and is kept from one search to the next.
template <class T>
class Memory {
 public:
  explicit Memory(Device& device) : device_(device) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { device_.release(data_); }

  // What was in it is lost where it grows.
  T* of_size(uint64_t n) {
    if (n <= size_) return data_;
    device_.release(std::exchange(data_, nullptr));
    size_ = 0;
    data_ = static_cast<T*>(device_.allocate(n * sizeof(T)));
    size_ = n;
    return data_;
  }

  T* zeros(uint64_t n) {
    T* data = of_size(n);
    device_.zero(data, n * sizeof(T));
    return data;
  }

  template <class Values>
  T* holding(const Values& values) {
    T* data = of_size(values.size());
    device_.upload(data, values.data(), values.size() * sizeof(T));
    return data;
  }

  T* data() const { return data_; }

 private:
  Device& device_;
  T* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace cuda
}  // namespace athsearch
