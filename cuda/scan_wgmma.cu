// Rows within a limit of a query for larger batches of queries, on the binary tensor cores of compute capability 9.0:
// wgmma m64n256k256, AND and population count of matrices in shared memory.
//
// It runs on sm_90a alone; for other GPUs the kernel is empty and never launched. Never run on a GPU, and nothing here
// was measured. By arithmetic:
//   a product (BGMMA) is 64 x 256 pairs and 128 bits of their codes. NVIDIA states no rate of it: at eight times that
//     of 8-bit integers it takes 128 clocks of a multiprocessor. That is 128 pairs a clock up to 128 bits, 64 up to 256
//     and 32 up to 512: 132 x 1.83 GHz x 128 = 3.1e13 pairs a second for 64 and 128 bits on an H100 or H200, 1.5e13 for
//     256 and 7.7e12 for 512.
//   instructions: nvcc 13.0 makes 99 for a thread's 128 sums, of which 64 are the VIMNMX3 and VIMNMX that find the
//     least of each query's, and 24 more for each further k-step. A tile of rows takes 64 up to 64 bits, 75 beyond, and
//     64 more for each further k-step; up to four tiles of queries share these. Together that is 0.9 a sum up to 128
//     bits, 1.2 for 256 and 1.9 for 512: at four a clock, 142, 139, 104 and 69 pairs for 64, 128, 256 and 512 bits. So
//     the products are the limit. VIMNMX3, if it goes at 64 lanes a clock, ends at the same 128 pairs.
//   shared memory: products read 80 bytes a clock of the 128 there are.
//   memory: a pass of up to 256 queries reads each code once. With up to 64 queries, 100 pairs a clock by instructions
//     are 3.8e11 rows a second: as much as an H100's memory has of 64 bits (3.0 TB/s, a copy's rate: 3.7e11).
//   scan_b1 ends at 65 pairs a clock from 17 queries on; up to 16 its smaller pass takes fewer instructions than this.
// Products wait for words, and sums for products: so three blocks of a warpgroup take turns on a multiprocessor (at
// most 168 registers a thread, and up to 65 KiB of shared memory a block). A near pair costs its warp two instructions
// for each of a query's 64 sums, and then what it costs the popcount scan. Limits: 4096 bits (97 KiB of shared memory),
// fewer than 2^48 rows; codes of more than 512 bits come in parts, for one tile of queries a pass.
#include "append.h"
#include "grid.h"
#include "launches.h"
#include "scan_wgmma.h"

namespace athsearch {
namespace cuda {

namespace {

constexpr unsigned kBlocks = 3;  // a multiprocessor: while one's products run, others look at their sums

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ATH_IS_SM_90A 1

// Operands 0 to 127 of a statement: the sums, and in its text.
#define ATH_4_SUMS(i) ATH_SUM(i), ATH_SUM(i + 1), ATH_SUM(i + 2), ATH_SUM(i + 3)
#define ATH_16_SUMS(i) ATH_4_SUMS(i), ATH_4_SUMS(i + 4), ATH_4_SUMS(i + 8), ATH_4_SUMS(i + 12)
#define ATH_64_SUMS(i) ATH_16_SUMS(i), ATH_16_SUMS(i + 16), ATH_16_SUMS(i + 32), ATH_16_SUMS(i + 48)
#define ATH_SUMS ATH_64_SUMS(0), ATH_64_SUMS(64)
#define ATH_8_NAMES(tens) \
  "%" #tens "0, %" #tens "1, %" #tens "2, %" #tens "3, %" #tens "4, %" #tens "5, %" #tens "6, %" #tens "7"
#define ATH_10_NAMES(tens) ATH_8_NAMES(tens) ", %" #tens "8, %" #tens "9, "
#define ATH_40_NAMES(a, b, c, d) ATH_10_NAMES(a) ATH_10_NAMES(b) ATH_10_NAMES(c) ATH_10_NAMES(d)
#define ATH_SUM_NAMES \
  "{" ATH_40_NAMES(, 1, 2, 3) ATH_40_NAMES(4, 5, 6, 7) ATH_40_NAMES(8, 9, 10, 11) ATH_8_NAMES(12) "}"

#define ATH_PRODUCT "wgmma.mma_async.sync.aligned.m64n256k256.s32.b1.b1.and.popc "
#define ATH_START_PRODUCT(is_added)                             \
  "wgmma.fence.sync.aligned;\n" /* what was read of the sums */ \
      ATH_PRODUCT ATH_SUM_NAMES ", %128, %129, " is_added ";\nwgmma.commit_group.sync.aligned;"

__device__ __forceinline__ void start_first_product(WgmmaSums& sums, uint64_t queries, uint64_t rows) {
#define ATH_SUM(i) "=r"(sums.of[i])
  asm volatile(ATH_START_PRODUCT("0") : ATH_SUMS : "l"(queries), "l"(rows));
#undef ATH_SUM
}
#define ATH_SUM(i) "+r"(sums.of[i])
__device__ __forceinline__ void start_product(WgmmaSums& sums, uint64_t queries, uint64_t rows) {
  asm volatile(ATH_START_PRODUCT("1") : ATH_SUMS : "l"(queries), "l"(rows));
}
__device__ __forceinline__ void end_products(WgmmaSums& sums) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" : ATH_SUMS::"memory");
}
__device__ __forceinline__ void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ uint32_t address_of(const void* in_shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(in_shared));
}
#else
#define ATH_IS_SM_90A 0
#endif

extern __shared__ Doubled queries[];

__global__ void __launch_bounds__(kWgmmaThreads, kBlocks) scan_wgmma_kernel(const Scan scan, const unsigned n_of_pass) {
#if ATH_IS_SM_90A
  __shared__ WgmmaShared shared;
  const unsigned thread = threadIdx.x, lane = thread % 32, first = blockIdx.x * n_of_pass * kWgmmaQueries;
  const unsigned n_tiles = n_tiles_there(scan.n_queries, first, n_of_pass), n = n_planes(scan.codes.n_words);
  load_query_tiles(thread, scan, first, n_tiles, queries, shared);
  const uint64_t of_queries = descriptor_of(address_of(queries), kWgmmaQueries);
  const uint64_t of_rows = descriptor_of(address_of(shared.rows), kWgmmaRows);
  uint64_t* const counters = scan.histogram + uint64_t{first} * scan.n_distances;
  RowPlace next{blockIdx.y, 0};
  RowWords words{};
  read_rows(scan.codes, next, thread, words);
  const auto expand = [&] {
    __syncthreads();  // everyone has waited for the products with what was there
    expand_rows(scan.codes, gridDim.y, thread, next, words, shared);
    show_to_products();  // what this thread has stored, its part of the queries too
    __syncthreads();
    read_rows(scan.codes, next, thread, words);  // under way while the products run
  };
#pragma unroll 1
  for (uint64_t row_tile = blockIdx.y; row_tile < n_row_tiles(scan.codes.n_rows); row_tile += gridDim.y) {
    expand();
#pragma unroll 1
    for (unsigned tile = 0; tile < n_tiles; ++tile) {
      WgmmaSums sums;
      const uint64_t of_tile = of_queries + planes_on(tile * n, kWgmmaQueries);
      start_first_product(sums, of_tile, of_rows);
#pragma unroll 1
      for (unsigned plane = 2; plane < n; plane += 2) {
        if (plane % kMostRowPlanes == 0) {
          end_products(sums);
          expand();
        }
        start_product(sums, of_tile + planes_on(plane, kWgmmaQueries),
                      of_rows + planes_on(plane % kMostRowPlanes, kWgmmaRows));
      }
      end_products(sums);
      const int32_t (&limits)[2] = shared.limits[tile][thread / 4];
      const bool is_near[2] = {least_sum(sums, 0) <= limits[0], least_sum(sums, 1) <= limits[1]};
      if (is_near[0] || is_near[1]) {
        uint64_t near[2] = {};
        ATH_UNROLL
        for (unsigned half = 0; half < 2; ++half)
          if (is_near[half]) near[half] = near_sums(sums, half, limits[half]);
#pragma unroll 1
        for (unsigned half = 0; half < 2; ++half)
          append_near(
              scan, first, lane, half == 0 ? near[0] : near[1],
              [&](unsigned i) {
                return look_again(scan, first, tile * kWgmmaQueries + query_of_half(half, thread),
                                  row_tile * kWgmmaRows + row_of_sum(i, thread));
              },
              [&](unsigned counter, unsigned n_hits) { add_together(&counters[counter], uint64_t{n_hits}); });
      }
      __syncwarp();
    }
  }
#else
  __trap();
#endif
}

}  // namespace

// What is built for other GPUs has nothing in shared memory.
bool is_wgmma_built() {
  cudaFuncAttributes attributes;
  ATH_CHECK(cudaFuncGetAttributes(&attributes, scan_wgmma_kernel));
  return attributes.sharedSizeBytes >= sizeof(WgmmaShared);
}

// Passes vary fastest, so that they read the same rows at about the same time, all but one from the cache.
void launch_scan_wgmma(const Scan& scan, Stream stream) {
  constexpr size_t kMostBytes = kMostWords * kWgmmaQueries * sizeof(Doubled);  // of any length of codes
  const unsigned n_tiles = n_query_tiles(scan.n_queries, scan.codes.n_words);
  const size_t bytes = wgmma_query_bytes(scan.codes.n_words, n_tiles);
  ATH_CHECK(cudaFuncSetAttribute(scan_wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes));
  const dim3 grid = grid_of(scan_wgmma_kernel, n_row_tiles(scan.codes.n_rows),
                            n_passes(scan.n_queries, n_tiles * kWgmmaQueries), bytes, kWgmmaThreads);
  scan_wgmma_kernel<<<dim3(grid.y, grid.x), kWgmmaThreads, bytes, stream>>>(scan, n_tiles);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace cuda
}  // namespace athsearch
