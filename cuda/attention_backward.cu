// Spatial attention, backward: the gradients of x and of the 3x3 filter in one kernel, and a small one for the sum of
// the filter's.
//
// The limit, by arithmetic; nothing here was measured: the gradient of y and x are read and the gradient of x is
// written once, three units of the activation over the memory's bandwidth. 256 images of 16 x 128 x 128 halves: 403 MB
// take 94 us on an H200 (4.3 TB/s, a copy's rate). What this reads: the gradient of y twice and x once, the first pass
// with the halo (612 pixels for 512); three units only where the caches have what is read again. Beside them 14 bytes a
// pixel of maps in half (A and its gradient, statistics, argmax): with 16 channels 15 % more. Blocks leave 18 sums
// each, at most 4096 blocks; they are added in a fixed order, so that equal inputs give equal gradients, bit for bit.
// Limits: as for the forward pass. 16 KiB of shared memory, 31 in double.
#include <cuda_runtime.h>

#include "failure.h"
#include "ops.h"

namespace athsearch {
namespace cuda {

using namespace attention;

namespace {

// On a multiprocessor, at least: what the registers allow without spilling.
template <class T>
constexpr unsigned kBlocksAtOnce = sizeof(T) == 8 ? 3 : 5;

template <class T, unsigned kValues>
__global__ void __launch_bounds__(kAttentionThreads, kBlocksAtOnce<T>)
    attention_backward_kernel(const Backward<T> call) {
  __shared__ BackwardShared<Sum<T>> shared;
  const unsigned thread = threadIdx.x, n_items = call.tiling.n_halo_pixels() << call.log_parts;
  load_weights<T>(thread, call.weight, shared.weight);
  TapSums<Sum<T>> sums{};
  for (unsigned number = blockIdx.x; number < call.tiling.n_tiles; number += gridDim.x) {
    const Tile tile = tile_of(call.tiling, number);
    for (unsigned item = thread; item - thread % 32 < n_items; item += kAttentionThreads) {
      Sum<T> product = read_product<T, kValues>(call, tile, item);
      for (unsigned distance = 1u << call.log_parts >> 1; distance > 0; distance /= 2)
        product += __shfl_down_sync(~0u, product, distance);
      store_grad_z(call, tile, item, product, shared);
    }
    __syncthreads();
    filter_gradients(thread, call, tile, shared);
    add_taps(thread, call, tile, shared, sums);
    __syncthreads();
    write_gradient<T, kValues>(thread, call, tile, shared);
  }
  store_taps(thread, sums, shared);
  __syncthreads();
  sum_taps(thread, blockIdx.x, shared, call.partial_sums);
}

template <class S>
__global__ void __launch_bounds__(kAttentionThreads)
    sum_blocks_kernel(const S* partial_sums, unsigned n_blocks, S* grad_weight) {
  __shared__ S shared[kSumSlices][kWeights];
  sum_some_blocks(threadIdx.x, partial_sums, n_blocks, shared);
  __syncthreads();
  sum_slices(threadIdx.x, shared, grad_weight);
}

template <class T, unsigned kValues>
void launch(const AttentionBackward& call, Stream stream) {
  attention_backward_kernel<T, kValues>
      <<<n_attention_blocks(call.shape), kAttentionThreads, 0, stream>>>(Backward<T>(call, kValues));
  ATH_CHECK(cudaGetLastError());
}

template <class T>
void launch(const AttentionBackward& call, Stream stream) {
  if (is_wide<T>(call.shape, call.x, call.grad_y, call.grad_x))
    launch<T, kWide<T>>(call, stream);
  else
    launch<T, 1>(call, stream);
  sum_blocks_kernel<<<1, kAttentionThreads, 0, stream>>>(static_cast<const Sum<T>*>(call.partial_sums),
                                                         n_attention_blocks(call.shape),
                                                         static_cast<Sum<T>*>(call.grad_weight));
  ATH_CHECK(cudaGetLastError());
}

}  // namespace

void launch_attention_backward(const AttentionBackward& call, Stream stream) {
  if (call.shape.n_images == 0) return;
  with_type(call.dtype, [&](auto of_type) { launch<decltype(of_type)>(call, stream); });
}

}  // namespace cuda
}  // namespace athsearch
