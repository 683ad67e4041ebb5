// Errors of the CUDA runtime as exceptions that say which call failed, where and why.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace athsearch {
namespace cuda {

struct CudaFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Says how much was needed and how much there is.
struct OutOfMemory : CudaFailure {
  using CudaFailure::CudaFailure;
};

// Throws CudaFailure unless the call's result, a cudaError_t, is cudaSuccess.
void check(int result, const char* call, const char* file, int line);

}  // namespace cuda
}  // namespace athsearch

#define ATH_CHECK(call) ::athsearch::cuda::check(call, #call, __FILE__, __LINE__)
