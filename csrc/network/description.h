// A hashing network as a list of steps on planes: what the CPU's network and the GPU's are made from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operations.h"

namespace athsearch {

// Built step by step. Planes are named by number; number 0 is the input. Each method throws std::invalid_argument where
// sizes do not fit.
class Description {
 public:
  struct Shape {
    size_t height, width, channels;
  };
  struct Step {
    enum class Kind { kConvolve, kPoolMaximum, kPoolAverage, kAttend, kFlatten, kSummarise } kind;
    size_t in, out;
    bool has_added;
    size_t added;
    size_t kernel, stride;
    bool is_rectified;
    size_t n_channels;
    float offset;
    std::vector<float> weights, bias;
  };

  // An input of size x size pixels of three channels: value v of channel c becomes values[256 * c + v], taken from
  // channel order[c] of the picture.
  Description(size_t size, std::vector<float> values, std::vector<size_t> order);

  size_t add_plane(size_t height, size_t width, size_t channels);

  // weights [kernel, kernel, channels in, channels out]; added: a plane's number, or none.
  void convolve(size_t in, size_t out, size_t kernel, size_t stride, std::vector<float> weights,
                std::vector<float> bias, bool is_rectified, const size_t* added);
  void pool_maximum(size_t in, size_t out);
  void pool_average(size_t in, size_t out);
  void attend(size_t in, size_t out, size_t n_channels, float offset, std::vector<float> weights);

  // What follows the planes: features, and the logits from them.
  void flatten(size_t in, size_t n_channels);  // features [n_channels, height, width]
  void summarise(size_t in);                   // features [2 * channels]: means, then maxima
  void finish(size_t bits, std::vector<float> weights, std::vector<float> bias);  // [n_features, bits filled up], bits

  size_t size() const { return size_; }
  size_t bits() const { return bits_; }
  size_t n_features() const { return n_features_; }
  const std::vector<float>& values() const { return values_; }
  const std::vector<size_t>& order() const { return order_; }
  const std::vector<Shape>& shapes() const { return shapes_; }
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<float>& last_weights() const { return last_weights_; }
  const std::vector<float>& last_bias() const { return last_bias_; }

 private:
  Step& keep_size(Step::Kind kind, size_t in, size_t out);
  const Shape& shape(size_t plane) const;

  size_t size_;
  std::vector<float> values_;
  std::vector<size_t> order_;
  std::vector<Shape> shapes_;
  std::vector<Step> steps_;
  size_t n_features_ = 0, bits_ = 0;
  std::vector<float> last_weights_, last_bias_;
};

}  // namespace athsearch
