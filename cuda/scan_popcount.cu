// Rows within a limit of a query, for any CUDA GPU: XOR and population count, two 32-bit halves a word.
//
// The limit, by arithmetic from a GPU's stated rates; nothing here was measured:
//   one query: a code's bytes over the memory's bandwidth. 64 bits on an H200 (4.3 TB/s, a copy's rate): 5.4e11 codes a
//   second,
//     1e9 in 1.9 ms; on an H100 (3.0 TB/s): 3.7e11 a second, 1e9 in 2.7 ms. n bits take n / 64 times as long.
//   several queries: population counts, 16 a clock and multiprocessor. 64 bits are two: 132 x 1.83 GHz x 8 = 1.9e12
//   pairs a
//     second on both chips, 128 bits half of that, and so on. From four queries on that is less than the memory would
//     allow.
// Cost of a pair: 2 LOP3, 2 POPC and 2 IADD a word, one comparison, one predicated LOP3; a pass of 8 queries reads each
// code once. Limits: 8 queries a pass up to 512 bits, one beyond; fewer than 2^48 rows.
#include "append.h"
#include "grid.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

extern __shared__ uint64_t shared_words[];

template <unsigned kWords, unsigned kQueries>
__global__ void __launch_bounds__(kThreads) scan_kernel(const Scan scan) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  const Shared shared(shared_words, scan.codes.n_words, kQueries);
  const unsigned thread = threadIdx.x, lane = thread % 32, first = blockIdx.y * kQueries;
  const unsigned n_there = scan.n_queries - first < kQueries ? scan.n_queries - first : kQueries;
  load_pass(thread, scan.queries, scan.limits, scan.n_queries, scan.codes.n_words, first, kQueries, scan.n_distances,
            shared);
  __syncthreads();
  for (uint64_t step = blockIdx.x; step < n_steps(scan.codes.n_rows, kSlots); step += gridDim.x) {
    append_near(
        scan, first, lane, near_rows<kWords, kQueries>(scan, shared, n_there, step, thread),
        [&](unsigned bit) { return near_row<kWords, kQueries>(scan, shared, bit, step, thread); },
        [&](unsigned counter, unsigned n) { add_together(&shared.counters[counter], n); });
  }
  __syncthreads();
  flush_counters(thread, shared, n_there, scan.n_distances, scan.histogram + uint64_t{first} * scan.n_distances);
}

template <unsigned kWords, unsigned kQueries>
void launch(const Scan& scan, Stream stream) {
  const size_t bytes = Shared::n_bytes(scan.codes.n_words, kQueries, scan.n_distances);
  const auto kernel = scan_kernel<kWords, kQueries>;
  const uint64_t steps = n_steps(scan.codes.n_rows, rows_a_step(kWords, kQueries));
  kernel<<<grid_of(kernel, steps, n_passes(scan.n_queries, kQueries), bytes), kThreads, bytes, stream>>>(scan);
  ATH_CHECK(cudaGetLastError());
}

using Launch = void (*)(const Scan&, Stream);
constexpr unsigned kMany = kQueriesAPass;
constexpr Launch kLaunches[kMostUnrolledWords + 1] = {launch<0, 1>, launch<1, 1>, launch<2, 1>,
                                                      launch<3, 1>, launch<4, 1>, launch<5, 1>,
                                                      launch<6, 1>, launch<7, 1>, launch<8, 1>};
constexpr Launch kBatchLaunches[kMostUnrolledWords] = {launch<1, kMany>, launch<2, kMany>, launch<3, kMany>,
                                                       launch<4, kMany>, launch<5, kMany>, launch<6, kMany>,
                                                       launch<7, kMany>, launch<8, kMany>};

}  // namespace

void launch_scan_popcount(const Scan& scan, Stream stream) {
  const unsigned n_words = scan.codes.n_words;
  if (is_batch(scan.n_queries, n_words))
    kBatchLaunches[n_words - 1](scan, stream);
  else
    kLaunches[n_words <= kMostUnrolledWords ? n_words : 0](scan, stream);
}

}  // namespace cuda
}  // namespace athsearch
