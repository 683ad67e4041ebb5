// The operations of networks as functions of athsearch._cuda: addresses of a GPU's memory and sizes in, checked as far
// as they can be; athsearch.model.ops is their public face.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "current.h"
#include "ops.h"

namespace athsearch {
namespace cuda {

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline void require(bool is_right, const std::string& what) {
  if (!is_right) throw pybind11::value_error(what);
}

inline Dtype checked_dtype(int code, int most) {
  require(code >= 0 && code <= most,
          "dtype must be from 0 to " + std::to_string(most) + ", got " + std::to_string(code));
  return static_cast<Dtype>(code);
}

inline unsigned checked_size(const char* name, uint64_t size, uint64_t most) {
  require(size >= 1 && size <= most,
          std::string(name) + " must be from 1 to " + std::to_string(most) + ", got " + std::to_string(size));
  return static_cast<unsigned>(size);
}

constexpr uint64_t kMostSide = (uint64_t{1} << 31) - 1;

inline void check_number_of_tiles(const attention::Shape& shape) {
  // Compared by division: the product could be too large for its type.
  require(shape.n_images == 0 ||
              attention::n_tiles_of({1, 1, shape.height, shape.width, false}) <= kMostSide / shape.n_images,
          "there are more tiles of 16 x 32 pixels than 2^31");
}

inline attention::Shape checked_shape(uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width,
                                      uint64_t channel_stride, uint64_t pixel_stride) {
  attention::Shape shape{n_images, checked_size("n_channels", n_channels, attention::kMostChannels),
                         checked_size("height", height, kMostSide), checked_size("width", width, kMostSide), false};
  const bool is_contiguous = pixel_stride == 1 && channel_stride == shape.n_pixels();
  shape.is_channels_last = !is_contiguous && channel_stride == 1 && pixel_stride == n_channels;
  require(is_contiguous || shape.is_channels_last,
          "channel_stride and pixel_stride must be (height * width, 1) or (1, n_channels), got (" +
              std::to_string(channel_stride) + ", " + std::to_string(pixel_stride) + ")");
  check_number_of_tiles(shape);
  return shape;
}

inline unsigned attention_blocks(uint64_t n_images, uint64_t height, uint64_t width) {
  const attention::Shape shape = checked_shape(n_images, 1, height, width, height * width, 1);
  return attention::n_attention_blocks(shape);
}

inline void attention_forward(int dtype, uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width,
                              uint64_t channel_stride, uint64_t pixel_stride, double offset, uintptr_t x,
                              uintptr_t weight, uintptr_t y, uintptr_t attention, uintptr_t maps, uintptr_t argmax,
                              uintptr_t stream, int device) {
  const AttentionForward call{checked_dtype(dtype, 3),
                              checked_shape(n_images, n_channels, height, width, channel_stride, pixel_stride),
                              offset,
                              at<const void>(x),
                              at<const void>(weight),
                              at<void>(y),
                              at<void>(attention),
                              at<void>(maps),
                              at<int16_t>(argmax)};
  require((maps == 0) == (argmax == 0), "maps and argmax are saved together");
  if (n_images == 0) return;
  const Current current(device);
  launch_attention(call, at<CUstream_st>(stream));
}

inline void attention_backward(int dtype, uint64_t n_images, uint64_t n_channels, uint64_t height, uint64_t width,
                               uint64_t channel_stride, uint64_t pixel_stride, double offset, uintptr_t grad_y,
                               uintptr_t grad_attention, uintptr_t x, uintptr_t weight, uintptr_t maps,
                               uintptr_t argmax, uintptr_t grad_x, uintptr_t grad_weight, uintptr_t partial_sums,
                               uintptr_t stream, int device) {
  const AttentionBackward call{checked_dtype(dtype, 3),
                               checked_shape(n_images, n_channels, height, width, channel_stride, pixel_stride),
                               offset,
                               at<const void>(grad_y),
                               at<const void>(grad_attention),
                               at<const void>(x),
                               at<const void>(weight),
                               at<const void>(maps),
                               at<const int16_t>(argmax),
                               at<void>(grad_x),
                               at<void>(grad_weight),
                               at<void>(partial_sums)};
  if (n_images == 0) return;
  const Current current(device);
  launch_attention_backward(call, at<CUstream_st>(stream));
}

inline void hash_pack(int dtype, uint64_t n_images, uint64_t n_features, uint64_t n_bits, uintptr_t features,
                      uintptr_t weights, uintptr_t bias, uintptr_t words, uintptr_t stream, int device) {
  const HashPack call{checked_dtype(dtype, 2),
                      n_images,
                      checked_size("n_features", n_features, kMostSide),
                      checked_size("n_bits", n_bits, 4096),
                      at<const void>(features),
                      at<const float>(weights),
                      at<const float>(bias),
                      at<uint64_t>(words)};
  require(hash::n_hash_blocks(call, 1) <= kMostSide, "there are more images than 2^34");
  if (n_images == 0) return;
  const Current current(device);
  launch_hash_pack(call, at<CUstream_st>(stream));
}

inline void define_ops(pybind11::module_& module) {
  using pybind11::arg;
  module.def("attention_blocks", &attention_blocks, arg("n_images"), arg("height"), arg("width"),
             "How many rows partial_sums must have.");
  module.def("attention_forward", &attention_forward, pybind11::kw_only(), arg("dtype"), arg("n_images"),
             arg("n_channels"), arg("height"), arg("width"), arg("channel_stride"), arg("pixel_stride"), arg("offset"),
             arg("x"), arg("weight"), arg("y"), arg("attention"), arg("maps"), arg("argmax"), arg("stream"),
             arg("device"), "y = x (offset + A(x)); maps and argmax may be 0.");
  module.def("attention_backward", &attention_backward, pybind11::kw_only(), arg("dtype"), arg("n_images"),
             arg("n_channels"), arg("height"), arg("width"), arg("channel_stride"), arg("pixel_stride"), arg("offset"),
             arg("grad_y"), arg("grad_attention"), arg("x"), arg("weight"), arg("maps"), arg("argmax"), arg("grad_x"),
             arg("grad_weight"), arg("partial_sums"), arg("stream"), arg("device"),
             "The gradients of x and weight; grad_attention may be 0.");
  module.def("hash_pack", &hash_pack, pybind11::kw_only(), arg("dtype"), arg("n_images"), arg("n_features"),
             arg("n_bits"), arg("features"), arg("weights"), arg("bias"), arg("words"), arg("stream"), arg("device"),
             "words uint64 [n_images, ceil(n_bits / 64)]: the signs of features weights^T + bias.");
}

}  // namespace cuda
}  // namespace athsearch
