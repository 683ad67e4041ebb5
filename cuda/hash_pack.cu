// The hash layer, the sign and the packing of its bits in one kernel, in float.
//
// The limit, by arithmetic; nothing here was measured: products. 1024 features and 64 bits are 65536 fused
// multiply-adds an image: 132 x 1.83 GHz x 128 = 3.1e13 a second on an H100 or H200, 4.7e8 images a second. Their
// bytes, 2 KB of halves an image, would allow 2.1e9 (4.3 TB/s, a copy's rate). Cost with many images: for four features
// of eight images and two bits a lane, 64 multiply-adds and ten 16-byte reads of shared memory, of which the two of
// weights take four turns each: 16 clocks of either. A slice is read only when the one before is done: other blocks
// must fill the time. Limits: 4096 bits, fewer than 2^32 features. 17 KiB of shared memory.
#include <cuda_runtime.h>

#include "failure.h"
#include "ops.h"

namespace athsearch {
namespace cuda {

using namespace hash;

namespace {

template <class T, unsigned kImages>
__global__ void __launch_bounds__(kHashThreads) hash_pack_kernel(const HashPack call) {
  __shared__ HashShared<kImages> shared;
  const unsigned thread = threadIdx.x, word = blockIdx.y;
  const uint64_t first_image = uint64_t{blockIdx.x} * images_a_block(kImages);
  Logits<kImages> logits{};
  for (uint64_t first = 0; first < call.n_features; first += kDepth) {
    load_slice<T, kImages>(thread, call, first_image, word, static_cast<unsigned>(first), shared);
    __syncthreads();
    add_products(thread, shared, logits);
    __syncthreads();
  }
  ATH_UNROLL
  for (unsigned image = 0; image < kImages; ++image) {
    const uint32_t low = __ballot_sync(~0u, is_set(call, word, thread % 32, 0, logits.at[image][0]));
    const uint32_t high = __ballot_sync(~0u, is_set(call, word, thread % 32, 1, logits.at[image][1]));
    write_word<kImages>(call, first_image, word, thread, image, low, high);
  }
}

template <class T, unsigned kImages>
void launch(const HashPack& call, Stream stream) {
  const dim3 grid(static_cast<unsigned>(n_hash_blocks(call, kImages)), call.n_words());
  hash_pack_kernel<T, kImages><<<grid, kHashThreads, 0, stream>>>(call);
  ATH_CHECK(cudaGetLastError());
}

template <class T>
void launch(const HashPack& call, Stream stream) {
  if (are_many(call))
    launch<T, kImagesAWarp>(call, stream);
  else
    launch<T, 1>(call, stream);
}

}  // namespace

void launch_hash_pack(const HashPack& call, Stream stream) {
  if (call.n_images == 0) return;
  with_type(call.dtype, [&](auto of_type) {
    if constexpr (sizeof of_type < 8) launch<decltype(of_type)>(call, stream);  // the caller has refused double
  });
}

}  // namespace cuda
}  // namespace athsearch
