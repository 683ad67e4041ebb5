// A hashing network on a GPU: its stages one after the other, then the hash layer, for some images at a time.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "device.h"
#include "stages.h"

namespace athsearch {
namespace cuda {

// Built step by step as every network is; `finish` plans its stages and uploads its weights. One run at a time; others
// wait.
class Network : public Description {
 public:
  // wanted: kFloat32, or kFloat16, which networks without that form (stages.h) do not take.
  Network(Device& device, size_t size, std::vector<float> values, std::vector<size_t> order, Dtype wanted);

  // Throws std::invalid_argument where a step does not fit the GPU, OutOfMemory.
  void finish(size_t bits, std::vector<float> weights, std::vector<float> bias);

  // What tiles and planes hold, once it is finished.
  Dtype dtype() const { return dtype_; }
  unsigned n_words() const { return static_cast<unsigned>((bits() + 63) / 64); }
  std::vector<TileSize> tile_sizes;  // that stages are planned with; none: the usual ones
  size_t most_images = 4096;         // at once; fewer where their planes would need more than 512 MB
  // Launches for each part of a run.
  size_t n_launches() const { return stages_.size() + 1; }
  const std::vector<StagePlan>& stages() const { return stages_; }

  // squares: uint8 [n_images, size, size, 3]; logits: float [n_images, bits]; codes: uint64 [n_images, n_words], bit =
  // logit > 0. In main memory, all of them.
  void run(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes);
  // The same with all of them in the GPU's memory, after what was asked for in a stream; returns when they are written.
  void run_on_device(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes, Stream stream);

 private:
  // Makes room for as many of n_images as go at once, and returns how many these are.
  size_t make_room(size_t n_images);
  void run_part(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes);
  size_t bytes_of(size_t plane) const;

  Device& device_;
  Dtype dtype_;
  std::vector<StagePlan> stages_;
  Memory<float> table_, last_weights_, last_bias_, logits_;
  Memory<uint64_t> codes_;
  Memory<uint8_t> weights_, squares_;
  std::vector<std::unique_ptr<Memory<uint8_t>>> planes_;  // of the description; null for those that live in tiles only
  size_t n_bytes_an_image_ = 0;
  bool is_finished_ = false;
  std::mutex turn_;
};

}  // namespace cuda
}  // namespace athsearch
