// A hashing network as a list of steps on planes, run for one image at a time by as many threads as there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "operations.h"

namespace athsearch {

// Built step by step, then run as often as wanted, by several threads at once too. Planes are named by number; number 0
// is the input. Each method throws std::invalid_argument where sizes do not fit.
class Network {
 public:
  // An input of size x size pixels of three channels: value v of channel c becomes values[256 * c + v], taken from
  // channel order[c] of the picture.
  Network(const Operations& operations, size_t size, std::vector<float> values, std::vector<size_t> order);
  ~Network();

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

  // images: uint8 [n_images, size, size, 3]; logits: float [n_images, bits].
  void run(const uint8_t* images, size_t n_images, float* logits, unsigned n_threads) const;

 private:
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
  struct Workspace;

  Step& keep_size(Step::Kind kind, size_t in, size_t out);
  const Shape& shape(size_t plane) const;
  void read_input(const uint8_t* image, const Plane& plane) const;
  void run_one(const uint8_t* image, Workspace& workspace, float* logits) const;
  std::unique_ptr<Workspace> take_workspace() const;

  const Operations& operations_;
  size_t size_;
  std::vector<float> values_;
  std::vector<size_t> order_;
  std::vector<Shape> shapes_;
  std::vector<Step> steps_;
  size_t n_features_ = 0, bits_ = 0;
  std::vector<float> last_weights_, last_bias_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace athsearch
