// Checks that what comes together fits together.
#include "description.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace athsearch {

namespace {

constexpr const char* kComplete = "the features are made: only finish may follow";

void require(bool is_so, const char* what) {
  if (!is_so) throw std::invalid_argument(what);
}

}  // namespace

Description::Description(size_t size, std::vector<float> values, std::vector<size_t> order)
    : size_(size), values_(std::move(values)), order_(std::move(order)) {
  require(size > 0 && values_.size() == 3 * 256 && order_.size() == 3, "values must be [3, 256], order [3]");
  require(*std::max_element(order_.begin(), order_.end()) < 3, "order names channels 0 to 2");
  shapes_.push_back({size, size, 3});
}

const Description::Shape& Description::shape(size_t plane) const {
  require(plane < shapes_.size(), "there is no such plane");
  return shapes_[plane];
}

size_t Description::add_plane(size_t height, size_t width, size_t channels) {
  require(n_features_ == 0, kComplete);
  require(height > 0 && width > 0 && channels > 0 && channels % kChannelStep == 0,
          "a plane's channels are filled up to a multiple of 8");
  shapes_.push_back({height, width, channels});
  return shapes_.size() - 1;
}

void Description::convolve(size_t in, size_t out, size_t kernel, size_t stride, std::vector<float> weights,
                           std::vector<float> bias, bool is_rectified, const size_t* added) {
  require(n_features_ == 0, kComplete);
  const Shape &from = shape(in), &to = shape(out);
  require((kernel == 1 || kernel == 3) && (stride == 1 || stride == 2), "kernels are 1 or 3 wide, strides 1 or 2");
  require(to.height == (from.height + stride - 1) / stride && to.width == (from.width + stride - 1) / stride,
          "the convolution's planes do not fit its stride");
  require(in != out && out != 0 && weights.size() == kernel * kernel * from.channels * to.channels &&
              bias.size() == to.channels,
          "weights must be [kernel, kernel, channels in, channels out], bias [channels out]");
  if (added) {
    const Shape& more = shape(*added);
    require(*added != out && more.height == to.height && more.width == to.width && more.channels == to.channels,
            "what is added must have the size of what comes out");
  }
  steps_.push_back({Step::Kind::kConvolve, in, out, added != nullptr, added ? *added : 0, kernel, stride, is_rectified,
                    0, 0, std::move(weights), std::move(bias)});
}

void Description::pool_maximum(size_t in, size_t out) { keep_size(Step::Kind::kPoolMaximum, in, out); }

void Description::pool_average(size_t in, size_t out) { keep_size(Step::Kind::kPoolAverage, in, out); }

void Description::attend(size_t in, size_t out, size_t n_channels, float offset, std::vector<float> weights) {
  require(weights.size() == 18 && n_channels > 0 && n_channels <= shape(in).channels, "weights must be [2, 3, 3]");
  Step& step = keep_size(Step::Kind::kAttend, in, out);
  step.n_channels = n_channels;
  step.offset = offset;
  step.weights = std::move(weights);
}

Description::Step& Description::keep_size(Step::Kind kind, size_t in, size_t out) {
  require(n_features_ == 0, kComplete);
  const Shape &from = shape(in), &to = shape(out);
  require(in != out && in != 0 && out != 0 && from.height == to.height && from.width == to.width &&
              from.channels == to.channels,
          "pooling and attention keep the size, and go to another plane");
  steps_.push_back({kind, in, out, false, 0, 0, 0, false, 0, 0, {}, {}});
  return steps_.back();
}

void Description::flatten(size_t in, size_t n_channels) {
  require(n_features_ == 0, kComplete);
  require(n_channels > 0 && n_channels <= shape(in).channels, "there are fewer channels");
  steps_.push_back({Step::Kind::kFlatten, in, 0, false, 0, 0, 0, false, n_channels, 0, {}, {}});
  n_features_ = n_channels * shape(in).height * shape(in).width;
}

void Description::summarise(size_t in) {
  require(n_features_ == 0, kComplete);
  require(in != 0, "the input cannot be summarised");
  steps_.push_back({Step::Kind::kSummarise, in, 0, false, 0, 0, 0, false, 0, 0, {}, {}});
  n_features_ = 2 * shape(in).channels;
}

void Description::finish(size_t bits, std::vector<float> weights, std::vector<float> bias) {
  require(n_features_ > 0 && bits_ == 0, "flatten or summarise comes first, and finish once");
  require(
      bits > 0 && bits <= bias.size() && bias.size() % kChannelStep == 0 && weights.size() == n_features_ * bias.size(),
      "weights must be [n_features, bits filled up to a multiple of 8], bias the same bits");
  bits_ = bits;
  last_weights_ = std::move(weights);
  last_bias_ = std::move(bias);
}

}  // namespace athsearch
