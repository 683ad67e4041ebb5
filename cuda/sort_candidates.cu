// The candidates of each query in order, a block a query; and codes from the callers' layout to the GPU's.
//
// Cost of a sort: a candidate is read twice and written once for every four bits of rows and distances, ten times for
// 1e9 codes of 64 bits. 36 KiB of shared memory.
#include <cuda_runtime.h>

#include <algorithm>

#include "codes.h"
#include "failure.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

__global__ void __launch_bounds__(kSortThreads) sort_kernel(const Sort sort) {
  __shared__ SortCounters counters;
  const unsigned thread = threadIdx.x, query = blockIdx.x;
  const uint64_t n_kept = sort.n_kept[query];
  if (n_kept == 0) return;
  Hit* from = sort.candidates + query * sort.capacity;
  Hit* to = sort.others + query * sort.capacity;
  for (unsigned pass = 0; pass < sort.passes.n_passes(); ++pass) {
    const Digit digit = sort.passes.digit(pass, sort.limits[query]);
    const uint64_t n = pass == 0 ? sort.n_candidates[query] : n_kept;
    count_digits(thread, from, n, digit, counters);
    __syncthreads();
    sum_counters(thread, counters);
    __syncthreads();
    unsigned of_sums = 0;
    for (unsigned distance = 1; distance < kSortThreads; distance *= 2, of_sums = 1 - of_sums) {
      add_earlier(thread, distance, of_sums, counters);
      __syncthreads();
    }
    spread_sums(thread, of_sums, counters);
    __syncthreads();
    scatter(thread, from, n, digit, counters, to);
    __syncthreads();
    Hit* const sorted = to;
    to = from;
    from = sorted;
  }
  copy_answer(thread, from, sort, query);
}

__global__ void __launch_bounds__(kThreads)
    arrange_kernel(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words) {
  const uint64_t n_threads = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < n_rows * n_words; i += n_threads)
    arrange_word(rows, i, n_words, first_row, words);
}

}  // namespace

void launch_sort(const Sort& sort, size_t n_queries, Stream stream) {
  sort_kernel<<<static_cast<unsigned>(n_queries), kSortThreads, 0, stream>>>(sort);
  ATH_CHECK(cudaGetLastError());
}

void launch_arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words,
                    Stream stream) {
  const uint64_t n_blocks = std::min<uint64_t>((n_rows * n_words + kThreads - 1) / kThreads, 1 << 16);
  arrange_kernel<<<static_cast<unsigned>(n_blocks), kThreads, 0, stream>>>(rows, n_rows, n_words, first_row, words);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace cuda
}  // namespace athsearch
