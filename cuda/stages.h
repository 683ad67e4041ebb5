// How a network is cut into stages, and which tiles they work on.
#pragma once

#include <vector>

#include "../csrc/network/description.h"
#include "stage.h"

namespace athsearch {
namespace cuda {

// A stage whose pointers are not set yet.
struct StagePlan {
  Stage stage;
  std::vector<size_t> planes;  // of the description, for each of stage.planes that has a place in the GPU's memory
  std::vector<size_t> steps;   // of the description, for each of stage.steps that has weights
  size_t n_shared_bytes;
};
constexpr size_t kNone = ~size_t{0};  // in StagePlan::planes and steps: none

// The cheapest cut, by a rough count of multiply-adds, bytes and launches, among those whose tiles fit into
// n_shared_bytes. Throws std::invalid_argument where a single step does not.
std::vector<StagePlan> plan_stages(const Description& description, size_t n_shared_bytes);

}  // namespace cuda
}  // namespace athsearch
