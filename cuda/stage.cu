// A stage of a hashing network: convolutions with folded BatchNorm, residuals, pooling and attention on a tile, fused.
//
// A block has a tile of one image in shared memory and walks through the stage's steps, a barrier after each; only what
// a later stage reads is written to the GPU's memory. In 16-bit floats a block may do all tiles of a strip, one below
// the other, and keeps the rows that both need. cuda/stages.cpp says which steps make a stage, how large its tiles are
// and which stages stream. The kernel for 16-bit floats is experimental.
//
// The limits, by arithmetic from a GPU's stated rates; nothing here was measured.
//
// 32-bit floats: multiply-adds, 128 a clock and multiprocessor, 33.5e12 a second on an H100 or H200. ath-s at 256 px
// has 64e6 an image: 520,000 images a second; ath-m at 96 px 28e6: 1,200,000; ath-l 49e6: 680,000. On top come the
// borders that neighbouring tiles both compute. Cost: for 128 multiply-adds four 16-byte loads from shared memory, and
// eight of weights, which the lanes of a warp mostly share, through the cache. Weights come once a block: where planes
// are small and channels many, that is most of the traffic. Limits: 128 registers a thread, so that two blocks run at
// once; channels in eights.
//
// 16-bit floats (mma.m16n8k16, PTX ISA; sm_80 and later): with 113 KiB a block, ath-s at 256 px is two stages, the
// first streamed in two strips, by bands of 16 rows of the picture. With what strips both compute and filling, an image
// takes 42,000 products of 2,048 multiply-adds, 1.3 times what the network has; in tiles alone it were 59,000. Of one
// multiprocessor that is 42,000 clocks of its tensor cores; 104,000 of its shared memory, 20 for eight products of 64
// pixels by 16 channels (four ldmatrix of 512 bytes, 512 of weights); and 358,000 of its four schedulers, for 1.43e6
// instructions of warps (in tiles 1.63e6), as counted in the machine code for sm_90a: 28 for those eight products; for
// 64 pixels by 16 channels 280 to find their places, round and store, and 170 where a residual is added; and for each
// step of each band 160 in each of the block's warps to find where it reads and writes, together 0.45e6. So
// instructions are the limit: 680,000 images a second on 132 multiprocessors at 1.83 GHz. Nearer to shared memory's
// 2,300,000 would come a kernel that knows its planes' sizes when it is compiled.
//
// To keep rows beside the tiles and take them back takes 9 instructions of a thread for 16 bytes each time, 2 % of all.
// A ring of rows would move none, but cost each ldmatrix a comparison and a selection, 8 beside those 28, and every
// other read of a window as much. Limits: values up to 65,504; 16 pixels of an image at least, and eight channels out,
// are always computed.
#include <cuda_runtime.h>

#include "convolve_f16.h"
#include "failure.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

constexpr size_t kBlocksAtOnce = 2;  // of a multiprocessor

extern __shared__ float4 shared_fours[];

template <class T>
__global__ void __launch_bounds__(kStageThreads, kBlocksAtOnce) stage_kernel(const __grid_constant__ Stage stage) {
  T* const shared = reinterpret_cast<T*>(shared_fours);
  TileOfImage tile = first_tile<T>(stage, blockIdx.y, blockIdx.x);
  do {
    for (unsigned number = 0; number < stage.n_steps; ++number) {
      const StageStep& step = stage.steps[number];
      if (is_of_warps<T>(step)) {
        if constexpr (sizeof(T) == 2) convolve(Warp(), threadIdx.x / 32, stage, step, tile, shared);
      } else {
        run_step(threadIdx.x, stage, step, tile, shared);
      }
      if constexpr (kMayStream<T>) pass_rows_on(threadIdx.x, stage, number, shared);
      __syncthreads();
    }
  } while (kMayStream<T> && ++tile.y < tile.end_y);
}

template <class T>
void launch(Stage stage, size_t n_images, size_t n_shared_bytes, Stream stream) {
  int device = 0, most_bytes = 0, n_multiprocessors = 0;
  ATH_CHECK(cudaGetDevice(&device));
  ATH_CHECK(cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  // The kernel's on this GPU, for all threads: always the most, lest one lowers it before another's launch.
  ATH_CHECK(cudaFuncSetAttribute(stage_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes));
  ATH_CHECK(cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, device));
  stage.n_streamed = n_streamed_for(stage, n_images, kBlocksAtOnce * static_cast<size_t>(n_multiprocessors));
  const dim3 grid(n_blocks_of_image(stage), static_cast<unsigned>(n_images));
  stage_kernel<T><<<grid, kStageThreads, n_shared_bytes, stream>>>(stage);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace

void launch_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes, Stream stream) {
  const auto launch_it = stage.dtype == Dtype::kFloat16 ? launch<Float16> : launch<float>;
  launch_it(stage, n_images, n_shared_bytes, stream);
}

}  // namespace cuda
}  // namespace athsearch
