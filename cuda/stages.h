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
  std::vector<std::vector<uint32_t>> groups;  // for each of stage.steps: what its groups hold
  size_t n_shared_bytes;
};
constexpr size_t kNone = ~size_t{0};  // in StagePlan::planes and steps: none

// Whether a network can be planned in 16-bit floats: where convolutions read the input, they are 3 x 3 with a stride
// of 2, so that windows begin at every second pixel of a tile, and the last plane goes to the features alone.
bool has_float16_form(const Description& description);

// A stage's tiles, in rows and columns of its last plane; where that is smaller, all of it.
struct TileSize {
  size_t height, width;
  bool is_streamed;  // a block does the tiles below each other
};
// What is tried where nothing else is asked for: streaming in 16-bit floats alone.
std::vector<TileSize> usual_tile_sizes(Dtype dtype);

// The cheapest cut, by a rough count of multiply-adds, bytes and launches, among those whose tiles fit into
// n_shared_bytes. dtype: kFloat32, or kFloat16 where the network has that form. Throws std::invalid_argument where a
// single step does not fit. sizes: those to choose from; streamed ones are for kFloat16.
std::vector<StagePlan> plan_stages(const Description& description, size_t n_shared_bytes, Dtype dtype,
                                   const std::vector<TileSize>& sizes);

}  // namespace cuda
}  // namespace athsearch
