// A stage of a hashing network: convolutions with folded BatchNorm, residuals, pooling and attention on a tile, fused.
//
// A block has a tile of one image in shared memory and walks through the stage's steps, a barrier after each; only what
// a later stage reads is written to the GPU's memory. cuda/stages.cpp says which steps make a stage and how large its
// tiles are.
//
// The limit, by arithmetic from a GPU's stated rates; nothing here was measured: 32-bit multiply-adds, 128 a clock and
// multiprocessor, 33.5e12 a second on an H100 or H200. ath-s at 256 px has 64e6 an image: 520,000 images a second;
// ath-m at 96 px 28e6: 1,200,000; ath-l 49e6: 680,000. On top come the borders that neighbouring tiles both compute.
// Cost: for 128 multiply-adds four 16-byte loads from shared memory, and eight of weights, which the lanes of a warp
// mostly share, through the cache. Weights come once a block: where planes are small and channels many, that is most of
// the traffic. Limits: 128 registers a thread, so that two blocks run at once; channels in eights.
#include <cuda_runtime.h>

#include "failure.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

extern __shared__ float4 shared_fours[];

__global__ void __launch_bounds__(kStageThreads, 2) stage_kernel(const __grid_constant__ Stage stage) {
  const TileOfImage tile = tile_of_image(stage, blockIdx.y, blockIdx.x);
  for (unsigned number = 0; number < stage.n_steps; ++number) {
    run_step(threadIdx.x, stage, number, tile, reinterpret_cast<float*>(shared_fours));
    __syncthreads();
  }
}

}  // namespace

void launch_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes, Stream stream) {
  ATH_CHECK(cudaFuncSetAttribute(stage_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(n_shared_bytes)));
  const dim3 grid(stage.n_tiles_y * stage.n_tiles_x, static_cast<unsigned>(n_images));
  stage_kernel<<<grid, kStageThreads, n_shared_bytes, stream>>>(stage);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace cuda
}  // namespace athsearch
