// The CUDA runtime's calls, each checked. The calling thread's current device is as it was afterwards: others, such as
// torch, rely on theirs.
#include "cuda_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "../csrc/registry.h"
#include "current.h"
#include "failure.h"

namespace athsearch {
namespace cuda {

namespace {

std::string in_gigabytes(uint64_t n_bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(n_bytes) / 1e9);
  return text;
}

// For where nothing can be done about an error: the driver may be gone, or this a forked process. It must not be left
// as the thread's last one, which the next launch would take for its own.
void ignore(cudaError_t result) {
  if (result != cudaSuccess) cudaGetLastError();
}

}  // namespace

void check(int result, const char* call, const char* file, int line) {
  const auto error = static_cast<cudaError_t>(result);
  if (error == cudaSuccess) return;
  cudaGetLastError();  // it was told: the next call's result is its own
  const char* const slash = std::strrchr(file, '/');
  throw CudaFailure(std::string(slash == nullptr ? file : slash + 1) + ":" + std::to_string(line) + ": " + call + ": " +
                    cudaGetErrorString(error) + " (CUDA error " + std::to_string(result) + ")");
}

Current::Current(int number) {
  ATH_CHECK(cudaGetDevice(&before_));
  ATH_CHECK(cudaSetDevice(number));
}

Current::~Current() { ignore(cudaSetDevice(before_)); }

CudaDevice::CudaDevice(int number) : number_(number) {
  const Current current(number_);
  ATH_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

CudaDevice::~CudaDevice() { ignore(cudaStreamDestroy(stream_)); }

void* CudaDevice::allocate(size_t n_bytes) {
  const Current current(number_);
  size_t n_free = 0, n_total = 0;
  ATH_CHECK(cudaMemGetInfo(&n_free, &n_total));
  void* memory = nullptr;
  const cudaError_t result = n_bytes > n_free ? cudaErrorMemoryAllocation : cudaMalloc(&memory, n_bytes);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory("GPU " + std::to_string(number_) + " is short of memory: " + in_gigabytes(n_bytes) +
                      " more are needed, " + in_gigabytes(n_free) + " of " + in_gigabytes(n_total) +
                      " are free; ask for less at once (fewer neighbours), or use the CPU (kind flat, device cpu)");
  }
  ATH_CHECK(result);
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  if (memory != nullptr) ignore(cudaFree(memory));
}

uint64_t CudaDevice::n_free_bytes() { return cuda::n_free_bytes(number_); }

// From ordinary memory, which the call has read when it returns.
void CudaDevice::upload(void* to, const void* from, size_t n_bytes) {
  const Current current(number_);
  ATH_CHECK(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaDevice::download(void* to, const void* from, size_t n_bytes) {
  const Current current(number_);
  ATH_CHECK(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, stream_));
  ATH_CHECK(cudaStreamSynchronize(stream_));
}

void CudaDevice::zero(void* to, size_t n_bytes) {
  const Current current(number_);
  ATH_CHECK(cudaMemsetAsync(to, 0, n_bytes, stream_));
}

void CudaDevice::arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words) {
  const Current current(number_);
  launch_arrange(rows, n_rows, n_words, first_row, words, stream_);
}

void CudaDevice::count(const Count& count) {
  const Current current(number_);
  launch_count(count, stream_);
}

void CudaDevice::scan(const Scan& scan) {
  const Current current(number_);
  switch (scan.kernel) {
    case ScanKernel::kPopcount:
      return launch_scan_popcount(scan, stream_);
    case ScanKernel::kB1:
      return launch_scan_b1(scan, stream_);
    case ScanKernel::kWgmma:
      return launch_scan_wgmma(scan, stream_);
  }
}

// Compute capabilities 8 and 9 multiply bits, 9.0 those of a whole warpgroup; later ones emulate it, slowly.
// ATHSEARCH_GPU_KERNEL forces a kernel.
LeastQueries CudaDevice::least_queries() {
  const char* const forced = std::getenv("ATHSEARCH_GPU_KERNEL");
  const std::string name = forced == nullptr ? "" : forced;
  if (name == "b1") return {1, kNever};
  if (name == "popcount") return {};
  if (!name.empty() && name != "wgmma")
    throw KernelUnavailable("kernel '" + name + "' is unknown on GPUs; available: b1, popcount, wgmma");
  const Current current(number_);
  int major = 0, minor = 0;
  ATH_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, number_));
  ATH_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, number_));
  const bool has_wgmma = major == 9 && minor == 0 && is_wgmma_built();
  if (name == "wgmma") {
    if (!has_wgmma)
      throw KernelUnavailable("kernel 'wgmma' needs a GPU of compute capability 9.0, and 90a among ATH_CUDA_ARCHS");
    return {kNever, 1};
  }
  return {major == 8 || major == 9 ? kLeastB1Queries : kNever, has_wgmma ? kLeastWgmmaQueries : kNever};
}

void CudaDevice::sort(const Sort& sort, size_t n_queries) {
  const Current current(number_);
  launch_sort(sort, n_queries, stream_);
}

// For two blocks a multiprocessor. The GPU keeps 1 KiB for itself of each.
size_t CudaDevice::n_shared_bytes_a_tile() {
  int of_multiprocessor = 0, of_block = 0;
  ATH_CHECK(cudaDeviceGetAttribute(&of_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, number_));
  ATH_CHECK(cudaDeviceGetAttribute(&of_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, number_));
  return static_cast<size_t>(std::min(of_multiprocessor / 2 - 1024, of_block));
}

void CudaDevice::run_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes) {
  const Current current(number_);
  launch_stage(stage, n_images, n_shared_bytes, stream_);
}

void CudaDevice::finish(const Finish& finish) {
  const Current current(number_);
  launch_finish(finish, stream_);
}

void CudaDevice::follow(Stream stream) {
  const Current current(number_);
  cudaEvent_t made = nullptr;
  ATH_CHECK(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
  const auto destroy = [](cudaEvent_t event) { ignore(cudaEventDestroy(event)); };
  const std::unique_ptr<CUevent_st, decltype(destroy)> reached(made, destroy);  // to wait for it, it need not be kept
  ATH_CHECK(cudaEventRecord(made, stream));
  ATH_CHECK(cudaStreamWaitEvent(stream_, made, 0));
}

void CudaDevice::wait() {
  const Current current(number_);
  ATH_CHECK(cudaStreamSynchronize(stream_));
}

std::vector<DeviceFacts> device_facts(std::string& why_none) {
  int n_devices = 0;
  const cudaError_t result = cudaGetDeviceCount(&n_devices);
  if (result != cudaSuccess) {
    cudaGetLastError();
    why_none = cudaGetErrorString(result);
    return {};
  }
  if (n_devices == 0) why_none = "the driver sees no GPU";
  std::vector<DeviceFacts> facts;
  for (int number = 0; number < n_devices; ++number) {
    cudaDeviceProp properties;
    ATH_CHECK(cudaGetDeviceProperties(&properties, number));
    facts.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                     properties.totalGlobalMem});
  }
  return facts;
}

uint64_t n_free_bytes(int number) {
  const Current current(number);
  size_t n_free = 0, n_total = 0;
  ATH_CHECK(cudaMemGetInfo(&n_free, &n_total));
  return n_free;
}

Versions versions() {
  Versions found{};
  ATH_CHECK(cudaDriverGetVersion(&found.driver));
  ATH_CHECK(cudaRuntimeGetVersion(&found.runtime));
  return found;
}

}  // namespace cuda
}  // namespace athsearch
