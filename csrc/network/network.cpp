// Planes, their borders, and the order of steps.
#include "network.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

#include "../pool.h"

namespace athsearch {

namespace {

constexpr const char* kComplete = "the features are made: only finish may follow";
constexpr size_t kSlack = 64;  // floats past a plane that a level may read

size_t floats_of(size_t height, size_t width, size_t channels) { return (height + 2) * (width + 2) * channels; }

void require(bool is_so, const char* what) {
  if (!is_so) throw std::invalid_argument(what);
}

}  // namespace

// The planes of one image on its way, with borders of zeros that nobody writes to.
struct Network::Workspace {
  std::vector<std::vector<float>> values;
  std::vector<Plane> planes;
  std::vector<float> scratch, features, logits;
};

Network::Network(const Operations& operations, size_t size, std::vector<float> values, std::vector<size_t> order)
    : operations_(operations), size_(size), values_(std::move(values)), order_(std::move(order)) {
  require(size > 0 && values_.size() == 3 * 256 && order_.size() == 3, "values must be [3, 256], order [3]");
  require(*std::max_element(order_.begin(), order_.end()) < 3, "order names channels 0 to 2");
  shapes_.push_back({size, size, 3});
}

Network::~Network() = default;

const Network::Shape& Network::shape(size_t plane) const {
  require(plane < shapes_.size(), "there is no such plane");
  return shapes_[plane];
}

size_t Network::add_plane(size_t height, size_t width, size_t channels) {
  require(n_features_ == 0, kComplete);
  require(height > 0 && width > 0 && channels > 0 && channels % kChannelStep == 0,
          "a plane's channels are filled up to a multiple of 8");
  shapes_.push_back({height, width, channels});
  return shapes_.size() - 1;
}

void Network::convolve(size_t in, size_t out, size_t kernel, size_t stride, std::vector<float> weights,
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

void Network::pool_maximum(size_t in, size_t out) { keep_size(Step::Kind::kPoolMaximum, in, out); }

void Network::pool_average(size_t in, size_t out) { keep_size(Step::Kind::kPoolAverage, in, out); }

void Network::attend(size_t in, size_t out, size_t n_channels, float offset, std::vector<float> weights) {
  require(weights.size() == 18 && n_channels > 0 && n_channels <= shape(in).channels, "weights must be [2, 3, 3]");
  Step& step = keep_size(Step::Kind::kAttend, in, out);
  step.n_channels = n_channels;
  step.offset = offset;
  step.weights = std::move(weights);
}

Network::Step& Network::keep_size(Step::Kind kind, size_t in, size_t out) {
  require(n_features_ == 0, kComplete);
  const Shape &from = shape(in), &to = shape(out);
  require(in != out && in != 0 && out != 0 && from.height == to.height && from.width == to.width &&
              from.channels == to.channels,
          "pooling and attention keep the size, and go to another plane");
  steps_.push_back({kind, in, out, false, 0, 0, 0, false, 0, 0, {}, {}});
  return steps_.back();
}

void Network::flatten(size_t in, size_t n_channels) {
  require(n_features_ == 0, kComplete);
  require(n_channels > 0 && n_channels <= shape(in).channels, "there are fewer channels");
  steps_.push_back({Step::Kind::kFlatten, in, 0, false, 0, 0, 0, false, n_channels, 0, {}, {}});
  n_features_ = n_channels * shape(in).height * shape(in).width;
}

void Network::summarise(size_t in) {
  require(n_features_ == 0, kComplete);
  require(in != 0, "the input cannot be summarised");
  steps_.push_back({Step::Kind::kSummarise, in, 0, false, 0, 0, 0, false, 0, 0, {}, {}});
  n_features_ = 2 * shape(in).channels;
}

void Network::finish(size_t bits, std::vector<float> weights, std::vector<float> bias) {
  require(n_features_ > 0 && bits_ == 0, "flatten or summarise comes first, and finish once");
  require(
      bits > 0 && bits <= bias.size() && bias.size() % kChannelStep == 0 && weights.size() == n_features_ * bias.size(),
      "weights must be [n_features, bits filled up to a multiple of 8], bias the same bits");
  bits_ = bits;
  last_weights_ = std::move(weights);
  last_bias_ = std::move(bias);
}

void Network::run(const uint8_t* images, size_t n_images, float* logits, unsigned n_threads) const {
  require(bits_ > 0, "the network is not finished");
  std::atomic<size_t> next{0};
  run_parallel(static_cast<unsigned>(std::min<size_t>(n_threads, n_images)), [&](unsigned) {
    std::unique_ptr<Workspace> workspace = take_workspace();
    for (size_t image = next++; image < n_images; image = next++)
      run_one(images + image * size_ * size_ * 3, *workspace, logits + image * bits_);
    // In a child of fork() the lock may be held for ever, by a thread that the child does not have.
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock.owns_lock()) idle_.push_back(std::move(workspace));
  });
}

std::unique_ptr<Network::Workspace> Network::take_workspace() const {
  {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock.owns_lock() && !idle_.empty()) {
      std::unique_ptr<Workspace> workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  auto workspace = std::make_unique<Workspace>();
  size_t n_scratch = 0;
  for (const Shape& shape : shapes_) {
    std::vector<float>& values =
        workspace->values.emplace_back(floats_of(shape.height, shape.width, shape.channels) + kSlack);
    const size_t row = (shape.width + 2) * shape.channels;
    workspace->planes.push_back({values.data() + row + shape.channels, shape.height, shape.width, shape.channels, row});
    n_scratch = std::max({n_scratch, row, 2 * (shape.height + 2) * (shape.width + 2 + kMapSlack)});
  }
  workspace->scratch.resize(n_scratch + kSlack);
  workspace->features.resize(n_features_);
  workspace->logits.resize(last_bias_.size());
  return workspace;
}

void Network::read_input(const uint8_t* image, const Plane& plane) const {
  for (size_t y = 0; y < size_; ++y)
    for (size_t x = 0; x < size_; ++x) {
      const uint8_t* pixel = image + (y * size_ + x) * 3;
      float* to = plane.values + y * plane.row + 3 * x;
      for (size_t channel = 0; channel < 3; ++channel) to[channel] = values_[256 * channel + pixel[order_[channel]]];
    }
}

void Network::run_one(const uint8_t* image, Workspace& workspace, float* logits) const {
  const std::vector<Plane>& planes = workspace.planes;
  float* scratch = workspace.scratch.data();
  read_input(image, planes[0]);
  for (const Step& step : steps_) {
    const Plane &in = planes[step.in], &out = planes[step.out];
    switch (step.kind) {
      case Step::Kind::kConvolve:
        operations_.convolve(in, {step.weights.data(), step.bias.data(), step.kernel, step.stride, step.is_rectified},
                             step.has_added ? &planes[step.added] : nullptr, out);
        break;
      case Step::Kind::kPoolMaximum:
        operations_.pool_maximum(in, out, scratch);
        break;
      case Step::Kind::kPoolAverage:
        operations_.pool_average(in, out, scratch);
        break;
      case Step::Kind::kAttend:
        operations_.attend(in, {step.weights.data(), step.n_channels, step.offset}, out, scratch);
        break;
      case Step::Kind::kSummarise:
        operations_.summarise(in, workspace.features.data());
        break;
      case Step::Kind::kFlatten: {
        float* to = workspace.features.data();
        for (size_t channel = 0; channel < step.n_channels; ++channel)
          for (size_t y = 0; y < in.height; ++y)
            for (size_t x = 0; x < in.width; ++x) *to++ = in.values[y * in.row + x * in.channels + channel];
      }
    }
  }
  operations_.multiply(workspace.features.data(), n_features_, last_weights_.data(), last_bias_.data(),
                       last_bias_.size(), workspace.logits.data());
  std::copy_n(workspace.logits.begin(), bits_, logits);
}

}  // namespace athsearch
