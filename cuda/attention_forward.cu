// Spatial attention, forward: statistics over channels, the 3x3 filter, the sigmoid and the product in one kernel.
//
// The limit, by arithmetic; nothing here was measured: x is read and y written once, two units of the activation over
// the memory's bandwidth. 256 images of 16 x 128 x 128 halves are 134 MB: 268 MB take 62 us on an H200 (4.3 TB/s, a
// copy's rate).
// What this reads: x twice, and the halo's 612 pixels for 512 of the largest tile in the first pass. That is the
// memory's two units only where the caches have what is read again: a tile of 32 channels in half is 39 KB. Beside x
// and y, [B, 1, H, W] of x's type are written, and for the backward pass 14 bytes a pixel (26 in double): with 16
// channels in half, 25 % more.
// Channels side by side are read in 16 bytes a lane, pixels side by side one by one: 64 bytes a warp in half.
// Limits: 32767 channels, fewer than 2^31 tiles. 7 KiB of shared memory, 14 in double.
#include <cuda_runtime.h>

#include "failure.h"
#include "ops.h"

namespace athsearch {
namespace cuda {

using namespace attention;

namespace {

template <class S>
__device__ Statistics<S> from_lane_above(const Statistics<S>& mine, unsigned distance) {
  return {__shfl_down_sync(~0u, mine.sum, distance), __shfl_down_sync(~0u, mine.maximum, distance),
          __shfl_down_sync(~0u, mine.channel, distance)};
}

template <class T, unsigned kValues>
__global__ void __launch_bounds__(kAttentionThreads) attention_forward_kernel(const Forward<T> call) {
  __shared__ ForwardShared<Sum<T>> shared;
  const unsigned thread = threadIdx.x, n_items = call.tiling.n_halo_pixels() << call.log_parts;
  load_weights<T>(thread, call.weight, shared.weight);
  for (unsigned number = blockIdx.x; number < call.tiling.n_tiles; number += gridDim.x) {
    const Tile tile = tile_of(call.tiling, number);
    for (unsigned item = thread; item - thread % 32 < n_items; item += kAttentionThreads) {
      Statistics<Sum<T>> found = read_statistics<T, kValues>(call, tile, item);
      for (unsigned distance = 1u << call.log_parts >> 1; distance > 0; distance /= 2)
        found = joined(found, from_lane_above(found, distance));
      store_statistics(call, tile, item, found, shared);
    }
    __syncthreads();
    gate_pixels(thread, call, tile, shared);
    __syncthreads();
    apply_gates<T, kValues>(thread, call, tile, shared);
  }
}

template <class T, unsigned kValues>
void launch(const AttentionForward& call, Stream stream) {
  attention_forward_kernel<T, kValues>
      <<<n_attention_blocks(call.shape), kAttentionThreads, 0, stream>>>(Forward<T>(call, kValues));
  ATH_CHECK(cudaGetLastError());
}

template <class T>
void launch(const AttentionForward& call, Stream stream) {
  if (is_wide<T>(call.shape, call.x, call.y))
    launch<T, kWide<T>>(call, stream);
  else
    launch<T, 1>(call, stream);
}

}  // namespace

void launch_attention(const AttentionForward& call, Stream stream) {
  if (call.shape.n_images == 0) return;
  with_type(call.dtype, [&](auto of_type) { launch<decltype(of_type)>(call, stream); });
}

}  // namespace cuda
}  // namespace athsearch
