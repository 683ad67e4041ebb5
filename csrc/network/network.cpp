// Planes, their borders, and the run of the steps.
#include "network.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <utility>

#include "../pool.h"

namespace athsearch {

namespace {

constexpr size_t kSlack = 64;  // floats past a plane that a level may read

size_t floats_of(size_t height, size_t width, size_t channels) { return (height + 2) * (width + 2) * channels; }

}  // namespace

// The planes of one image on its way, with borders of zeros that nobody writes to.
struct Network::Workspace {
  std::vector<std::vector<float>> values;
  std::vector<Plane> planes;
  std::vector<float> scratch, features, logits;
};

Network::Network(const Operations& operations, size_t size, std::vector<float> values, std::vector<size_t> order)
    : Description(size, std::move(values), std::move(order)), operations_(operations) {}

Network::~Network() = default;

void Network::run(const uint8_t* images, size_t n_images, float* logits, unsigned n_threads) const {
  if (bits() == 0) throw std::invalid_argument("the network is not finished");
  std::atomic<size_t> next{0};
  run_parallel(static_cast<unsigned>(std::min<size_t>(n_threads, n_images)), [&](unsigned) {
    std::unique_ptr<Workspace> workspace = take_workspace();
    for (size_t image = next++; image < n_images; image = next++)
      run_one(images + image * size() * size() * 3, *workspace, logits + image * bits());
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
  for (const Shape& shape : shapes()) {
    std::vector<float>& values =
        workspace->values.emplace_back(floats_of(shape.height, shape.width, shape.channels) + kSlack);
    const size_t row = (shape.width + 2) * shape.channels;
    workspace->planes.push_back({values.data() + row + shape.channels, shape.height, shape.width, shape.channels, row});
    n_scratch = std::max({n_scratch, row, 2 * (shape.height + 2) * (shape.width + 2 + kMapSlack)});
  }
  workspace->scratch.resize(n_scratch + kSlack);
  workspace->features.resize(n_features());
  workspace->logits.resize(last_bias().size());
  return workspace;
}

void Network::read_input(const uint8_t* image, const Plane& plane) const {
  for (size_t y = 0; y < size(); ++y)
    for (size_t x = 0; x < size(); ++x) {
      const uint8_t* pixel = image + (y * size() + x) * 3;
      float* to = plane.values + y * plane.row + 3 * x;
      for (size_t channel = 0; channel < 3; ++channel) to[channel] = values()[256 * channel + pixel[order()[channel]]];
    }
}

void Network::run_one(const uint8_t* image, Workspace& workspace, float* logits) const {
  const std::vector<Plane>& planes = workspace.planes;
  float* scratch = workspace.scratch.data();
  read_input(image, planes[0]);
  for (const Step& step : steps()) {
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
  operations_.multiply(workspace.features.data(), n_features(), last_weights().data(), last_bias().data(),
                       last_bias().size(), workspace.logits.data());
  std::copy_n(workspace.logits.begin(), bits(), logits);
}

}  // namespace athsearch
