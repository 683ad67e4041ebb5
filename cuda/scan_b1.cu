// Rows within a limit of a query for batches of queries, on binary tensor cores: m16n8k256, AND and population count.
//
// It runs on sm_80 and later; from sm_100 on the compiler emulates the product by bytes, so that population counts are
// chosen there. Never run on a GPU, and nothing here was measured. By arithmetic:
//   a product (BMMA) is 128 pairs and 128 bits of their codes. A warp's step over 64 queries and 32 rows has 16 of
//     a k-step; nvcc 13.0 makes 126 instructions of it for sm_90a and 67 more of each further k-step. 31 are the LOP3
//     that join the signs of 2,048 sums; the others read, complement and find addresses.
//   at four instructions a clock that is 65 pairs a clock and multiprocessor up to 128 bits, 42 up to 256 and 25 up to
//     512: 132 x 1.83 GHz x 65 = 1.6e13 pairs a second on an H100 or H200, where population counts end at 1.9e12 for 64
//     bits and 2.4e11 for 512. NVIDIA states no rate of BMMA for these: it must be 0.5 products a clock and
//     multiprocessor for that, and 0.8 for 512 bits.
//   memory: a pass of 64 queries reads each code once, 8 bytes a word; passes side by side share them in the L2 cache.
//     Up to 16 queries are a pass that reads 64 rows a warp and step.
// A step with a near pair costs a funnel shift for each of a lane's sums besides what the popcount scan does with them;
// hits are counted in global memory. Limits: 4096 bits (64 KiB of shared memory), fewer than 2^48 rows.
#include "append.h"
#include "grid.h"
#include "launches.h"
#include "scan_b1.h"

namespace athsearch {
namespace cuda {

namespace {

extern __shared__ QueryFragment shared_queries[];

__device__ __forceinline__ void mma_b1_and_popc(Sums& sums, const QueryFragment& queries, const RowFragment& rows) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(sums.of[0]), "+r"(sums.of[1]), "+r"(sums.of[2]), "+r"(sums.of[3])
      : "r"(queries.bits[0]), "r"(queries.bits[1]), "r"(queries.bits[2]), "r"(queries.bits[3]), "r"(rows.bits[0]),
        "r"(rows.bits[1]));
}

// Where the product is emulated it takes more registers than two blocks have.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr unsigned kBlocks = 1;
#else
constexpr unsigned kBlocks = 2;
#endif

template <unsigned kQueryTiles, unsigned kRowTiles>
__global__ void __launch_bounds__(kThreads, kBlocks) scan_b1_kernel(const Scan scan) {
  const unsigned thread = threadIdx.x, lane = thread % 32, first = blockIdx.x * kMmaQueries * kQueryTiles;
  load_queries<kQueryTiles>(thread, scan, first, shared_queries);
  __syncthreads();
  Sums begin[kQueryTiles];
  ATH_UNROLL
  for (unsigned tile = 0; tile < kQueryTiles; ++tile) begin[tile] = first_sums(scan, first, tile, lane);
  uint64_t* const counters = scan.histogram + uint64_t{first} * scan.n_distances;
  const unsigned n_k = n_k_steps(scan.codes.n_words);
  const uint64_t n = n_warp_steps<kRowTiles>(scan.codes.n_rows), n_warps = uint64_t{gridDim.y} * kWarps;
  uint64_t step = uint64_t{blockIdx.y} * kWarps + thread / 32;
  uint64_t words[kRowTiles];
  if (step < n) load_rows(scan.codes, step, 0, lane, words);
  for (; step < n; step += n_warps) {
    Sums sums[kQueryTiles][kRowTiles];
    ATH_UNROLL
    for (unsigned tile = 0; tile < kQueryTiles; ++tile) ATH_UNROLL
    for (unsigned rows = 0; rows < kRowTiles; ++rows) sums[tile][rows] = begin[tile];
    // The words that come next are read while these are multiplied.
    const auto multiply = [&](unsigned k) {
      RowFragment fragments[kRowTiles];
      ATH_UNROLL
      for (unsigned rows = 0; rows < kRowTiles; ++rows) fragments[rows] = row_fragment(words[rows], lane);
      const bool is_last = k + 1 == n_k;
      load_rows(scan.codes, is_last ? smaller(step + n_warps, n - 1) : step, is_last ? 0 : k + 1, lane, words);
      ATH_UNROLL
      for (unsigned tile = 0; tile < kQueryTiles; ++tile) {
        const QueryFragment queries = shared_queries[(k * kQueryTiles + tile) * 32 + lane];
        ATH_UNROLL
        for (unsigned rows = 0; rows < kRowTiles; ++rows) mma_b1_and_popc(sums[tile][rows], queries, fragments[rows]);
      }
    };
    multiply(0);  // by itself: its sums come from `begin` without a copy
#pragma unroll 1  // more, and the compiler waits for the words before it multiplies
    for (unsigned k = 1; k < n_k; ++k) multiply(k);
    append_near(
        scan, first, lane, near_pairs(sums),
        [&](unsigned bit) { return near_pair<kQueryTiles, kRowTiles>(scan, first, bit, step, lane); },
        [&](unsigned counter, unsigned n_hits) { add_together(&counters[counter], uint64_t{n_hits}); });
    __syncwarp();
  }
}

// Passes vary fastest, so that they read the same rows at about the same time, all but one from the cache.
template <unsigned kQueryTiles, unsigned kRowTiles>
void launch(const Scan& scan, Stream stream) {
  const auto bytes_for = [](unsigned n_words) { return n_k_steps(n_words) * kQueryTiles * 32 * sizeof(QueryFragment); };
  const size_t bytes = bytes_for(scan.codes.n_words);
  const auto kernel = scan_b1_kernel<kQueryTiles, kRowTiles>;
  // The kernel's on this GPU, for all threads: always the most, lest one lowers it before another's launch.
  ATH_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes_for(kMostWords))));
  const uint64_t steps = (n_warp_steps<kRowTiles>(scan.codes.n_rows) + kWarps - 1) / kWarps;
  const dim3 grid = grid_of(kernel, steps, n_passes(scan.n_queries, kMmaQueries * kQueryTiles), bytes);
  kernel<<<dim3(grid.y, grid.x), kThreads, bytes, stream>>>(scan);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace

void launch_scan_b1(const Scan& scan, Stream stream) {
  (scan.n_queries <= kMmaQueries ? launch<1, 8> : launch<4, 4>)(scan, stream);
}

}  // namespace cuda
}  // namespace athsearch
