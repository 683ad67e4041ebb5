// What a network is made of, as functions on images of floats: the contract between network.cpp and its CPU levels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace athsearch {

// Channels lie side by side, filled up with zeros to a multiple of this, so that no level needs a remainder.
constexpr size_t kChannelStep = 8;

// One picture [height, width, channels] with a border of one pixel of zeros all round, so that a 3 x 3 window needs no
// special case at the edge. Pixel (y, x) begins at values + y * row + x * channels, for y and x from -1 on.
struct Plane {
  float* values;
  size_t height, width;
  size_t channels;  // a multiple of kChannelStep, except for the network's input
  size_t row;       // floats from one row to the next
};

// Convolution with BatchNorm folded in.
struct Convolution {
  const float* weights;  // [kernel, kernel, channels in, channels out]
  const float* bias;     // [channels out]
  size_t kernel;         // 1 or 3, centred
  size_t stride;         // 1 or 2
  bool is_rectified;     // max(0, .) at the end
};

// A(x) = sigmoid(3 x 3 convolution of [mean over channels, maximum over channels]); out = x (A + offset).
struct Attention {
  const float* weights;  // [2, 3, 3]
  size_t n_channels;     // those that are not filling
  float offset;
};

// One CPU level. `out` overlaps no input; its border stays as it is. scratch: floats, as many as said.
struct Operations {
  const char* name;
  uint32_t features;
  // `added` has the size of `out`, or is null.
  void (*convolve)(const Plane& in, const Convolution& convolution, const Plane* added, const Plane& out);
  // Windows of 3 x 3, stride 1; scratch: in.row. The maximum is right for values that are not negative.
  void (*pool_maximum)(const Plane& in, const Plane& out, float* scratch);
  void (*pool_average)(const Plane& in, const Plane& out, float* scratch);
  // scratch: 2 * (height + 2) * (width + 2 + kMapSlack).
  void (*attend)(const Plane& in, const Attention& attention, const Plane& out, float* scratch);
  // out [2 * channels]: mean and maximum over all pixels.
  void (*summarise)(const Plane& in, float* out);
  // out [n_out] = in [n_in] times weights [n_in, n_out] + bias [n_out]; n_out a multiple of kChannelStep.
  void (*multiply)(const float* in, size_t n_in, const float* weights, const float* bias, size_t n_out, float* out);
};

constexpr size_t kMapSlack = 16;  // floats past a row of a map that may be read and written

}  // namespace athsearch
