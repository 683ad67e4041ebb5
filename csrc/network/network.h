// A hashing network on the CPU: run for one image at a time by as many threads as there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "description.h"

namespace athsearch {

// Built once, then run as often as wanted, by several threads at once too.
class Network : public Description {
 public:
  Network(const Operations& operations, size_t size, std::vector<float> values, std::vector<size_t> order);
  ~Network();

  // images: uint8 [n_images, size, size, 3]; logits: float [n_images, bits].
  void run(const uint8_t* images, size_t n_images, float* logits, unsigned n_threads) const;

 private:
  struct Workspace;

  void read_input(const uint8_t* image, const Plane& plane) const;
  void run_one(const uint8_t* image, Workspace& workspace, float* logits) const;
  std::unique_ptr<Workspace> take_workspace() const;

  const Operations& operations_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace athsearch
