// What lets the logic of the kernels be compiled by nvcc for a GPU and by any C++ compiler for tests: no CUDA header
// here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../csrc/scan.h"

#ifdef __CUDACC__
#define ATH_BOTH __host__ __device__ inline
#define ATH_DEVICE __device__ inline  // what a warp does together: on a host only where one is emulated
#else
#define ATH_BOTH inline
#define ATH_DEVICE inline
#endif

// Arrays whose every index is known when a loop is unrolled live in registers.
#ifdef __CUDA_ARCH__
#define ATH_UNROLL _Pragma("unroll")
#define ATH_UNROLL_TWICE _Pragma("unroll 2")
#define ATH_UNROLL_WORDS _Pragma("unroll kUnrolledWords")
#else
#define ATH_UNROLL
#define ATH_UNROLL_TWICE
#define ATH_UNROLL_WORDS
#endif

namespace athsearch {
namespace cuda {

ATH_BOTH unsigned n_set_bits(uint64_t word) {
#ifdef __CUDA_ARCH__
  return static_cast<unsigned>(__popcll(word));
#else
  return static_cast<unsigned>(__builtin_popcountll(word));
#endif
}

ATH_BOTH unsigned lowest_set_bit(uint32_t word) {
#ifdef __CUDA_ARCH__
  return static_cast<unsigned>(__ffs(static_cast<int>(word))) - 1;
#else
  return static_cast<unsigned>(__builtin_ctz(word));
#endif
}

ATH_BOTH unsigned lowest_set_bit(uint64_t word) {
#ifdef __CUDA_ARCH__
  return static_cast<unsigned>(__ffsll(static_cast<long long>(word))) - 1;
#else
  return static_cast<unsigned>(__builtin_ctzll(word));
#endif
}

// Adds where several threads of a block, or of the grid, may add at once; returns what was there before.
ATH_BOTH uint64_t add_together(uint64_t* sum, uint64_t value) {
#ifdef __CUDA_ARCH__
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t), "atomicAdd takes unsigned long long");
  return atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
#else
  const uint64_t before = *sum;
  *sum += value;
  return before;
#endif
}

ATH_BOTH uint32_t add_together(uint32_t* sum, uint32_t value) {
#ifdef __CUDA_ARCH__
  return atomicAdd(sum, value);
#else
  const uint32_t before = *sum;
  *sum += value;
  return before;
#endif
}

ATH_BOTH uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

}  // namespace cuda
}  // namespace athsearch
