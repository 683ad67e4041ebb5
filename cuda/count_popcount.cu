// How many rows lie at each distance of a query, or in each range of rows at one distance: every step, or a sample.
//
// Cost: that of the scan (scan_popcount.cu), and an addition in shared memory for each pair that falls into a bin.
// Codes are spread over few distances, so that several threads of a warp often add to one counter and take turns.
// Limits: bins that fit into shared memory, 48 KiB with the pass's queries.
#include "grid.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

extern __shared__ uint64_t shared_words[];

template <unsigned kWords, unsigned kQueries>
__global__ void __launch_bounds__(kThreads) count_kernel(const Count count) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  const Shared shared(shared_words, count.codes.n_words, kQueries);
  const unsigned thread = threadIdx.x, first = blockIdx.y * kQueries;
  const unsigned n_there = count.n_queries - first < kQueries ? count.n_queries - first : kQueries;
  load_pass(thread, count.queries, count.firsts, count.n_queries, count.codes.n_words, first, kQueries, count.n_bins,
            shared);
  __syncthreads();
  const uint64_t n = n_steps(count.codes.n_rows, kSlots);
  for (uint64_t step = blockIdx.x * count.every; step < n; step += gridDim.x * count.every)
    count_rows<kWords, kQueries>(count, shared, n_there, step, thread);
  __syncthreads();
  flush_counters(thread, shared, n_there, count.n_bins, count.bins + uint64_t{first} * count.n_bins);
}

template <unsigned kWords, unsigned kQueries>
void launch(const Count& count, Stream stream) {
  const size_t bytes = Shared::n_bytes(count.codes.n_words, kQueries, count.n_bins);
  const auto kernel = count_kernel<kWords, kQueries>;
  const uint64_t steps = (n_steps(count.codes.n_rows, rows_a_step(kWords, kQueries)) + count.every - 1) / count.every;
  kernel<<<grid_of(kernel, steps, n_passes(count.n_queries, kQueries), bytes), kThreads, bytes, stream>>>(count);
  ATH_CHECK(cudaGetLastError());
}

using Launch = void (*)(const Count&, Stream);
constexpr unsigned kMany = kQueriesAPass;
constexpr Launch kLaunches[kMostUnrolledWords + 1] = {launch<0, 1>, launch<1, 1>, launch<2, 1>,
                                                      launch<3, 1>, launch<4, 1>, launch<5, 1>,
                                                      launch<6, 1>, launch<7, 1>, launch<8, 1>};
constexpr Launch kBatchLaunches[kMostUnrolledWords] = {launch<1, kMany>, launch<2, kMany>, launch<3, kMany>,
                                                       launch<4, kMany>, launch<5, kMany>, launch<6, kMany>,
                                                       launch<7, kMany>, launch<8, kMany>};

}  // namespace

void launch_count(const Count& count, Stream stream) {
  const unsigned n_words = count.codes.n_words;
  if (is_batch(count.n_queries, n_words))
    kBatchLaunches[n_words - 1](count, stream);
  else
    kLaunches[n_words <= kMostUnrolledWords ? n_words : 0](count, stream);
}

}  // namespace cuda
}  // namespace athsearch
