// The emulated operations as functions for Python tests, with the sizes and addresses of athsearch._cuda in its order.
#include "emulated_ops.h"

using namespace athsearch::cuda;

namespace {

Shape shape_of(uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width, uint64_t pixel_stride) {
  const auto narrow_channels = static_cast<unsigned>(n_channels);
  return {n_images, narrow_channels, static_cast<unsigned>(height), static_cast<unsigned>(width), pixel_stride != 1};
}

}  // namespace

extern "C" {

unsigned attention_blocks(uint64_t n_images, uint64_t height, uint64_t width) {
  return n_attention_blocks(shape_of(n_images, 1, height, width, 1));
}

void attention_forward(int dtype, uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width, uint64_t,
                       uint64_t pixel_stride, double offset, const void* x, const void* weight, void* y,
                       void* attention, void* maps, int16_t* argmax, const void*, int) {
  EmulatedOps(1).attention({static_cast<Dtype>(dtype), shape_of(n_images, n_channels, height, width, pixel_stride),
                            offset, x, weight, y, attention, maps, argmax});
}

void attention_backward(int dtype, uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width, uint64_t,
                        uint64_t pixel_stride, double offset, const void* grad_y, const void* grad_attention,
                        const void* x, const void* weight, const void* maps, const int16_t* argmax, void* grad_x,
                        void* grad_weight, void* partial_sums, const void*, int) {
  EmulatedOps(1).attention_backward({static_cast<Dtype>(dtype),
                                     shape_of(n_images, n_channels, height, width, pixel_stride), offset, grad_y,
                                     grad_attention, x, weight, maps, argmax, grad_x, grad_weight, partial_sums});
}

void hash_pack(int dtype, uint64_t n_images, uint64_t n_features, uint64_t n_bits, const void* features,
               const float* weights, const float* bias, uint64_t* words, const void*, int) {
  EmulatedOps(1).hash_pack({static_cast<Dtype>(dtype), n_images, static_cast<unsigned>(n_features),
                            static_cast<unsigned>(n_bits), features, weights, bias, words});
}
}
