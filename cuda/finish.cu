// The end of a hashing network: features, the hash layer, signs and packed codes, in 32-bit floats throughout, because
// the signs of small logits decide bits.
//
// The limit, by arithmetic; nothing here was measured: small beside the stages. 1024 features and 64 bits are 65,536
// multiply-adds an image, 0.1 % of ath-s. Cost: a weight is read once for eight images, a feature once for 32 bits, and
// a mean or maximum over a plane once for 32 bits. Limits: eight images and 32 bits a block, so that one image takes as
// long as eight; features of large planes are made by few threads.
#include <cuda_runtime.h>

#include "failure.h"
#include "launches.h"

namespace athsearch {
namespace cuda {

namespace {

__global__ void __launch_bounds__(kFinishThreads, 4) finish_kernel(const Finish finish) {
  __shared__ FinishShared shared;
  const unsigned thread = threadIdx.x, half = blockIdx.x, first_image = blockIdx.y * kFinishImages;
  float sums[kFinishImages] = {};
  for (unsigned first = 0; first < finish.n_features; first += kFinishFeatures) {
    load_features(thread, finish, first_image, first, shared);
    __syncthreads();
    add_features(thread, finish, 32 * half, first, shared, sums);
    __syncthreads();
  }
  leave_parts(thread, sums, shared);
  __syncthreads();
  const bool is_set = finish_bit(thread, finish, first_image, 32 * half, shared);
  const unsigned signs = __ballot_sync(~0u, is_set);
  if (thread % 32 == 0) store_signs(thread / 32, finish, first_image, half, signs);
}

}  // namespace

void launch_finish(const Finish& finish, Stream stream) {
  const dim3 grid(2 * finish.n_words, (finish.n_images + kFinishImages - 1) / kFinishImages);
  finish_kernel<<<grid, kFinishThreads, 0, stream>>>(finish);
  ATH_CHECK(cudaGetLastError());
}

}  // namespace cuda
}  // namespace athsearch
