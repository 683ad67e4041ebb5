// How convolve_f16.h wants a convolution: its window as groups of eight values, and its weights in a warp's registers.
#pragma once

#include <vector>

#include "../csrc/network/description.h"
#include "stage.h"

namespace athsearch {
namespace cuda {

// Groups of a window by channel, column and row, two of them a product. The input has four channels, and pairs of
// pixels.
class Groups {
 public:
  struct Group {
    bool is_there;
    size_t row, column, part;  // part: of a pixel's channels
  };

  Groups(size_t kernel, size_t n_channels)
      : is_input_(n_channels == 4),
        n_rows_(kernel),
        n_columns_(is_input_ ? 2 : kernel),
        n_parts_(is_input_ ? 1 : n_channels / 8) {}

  size_t n_products() const { return (n_rows_ * n_columns_ * n_parts_ + 1) / 2; }
  Group at(size_t i) const {
    const size_t row = i / n_parts_ / n_columns_;
    return {row < n_rows_, row, i / n_parts_ % n_columns_, i % n_parts_};
  }

  // Bytes of a tile from the window's first to each group's.
  std::vector<uint32_t> places(const TiledPlane& tile) const {
    const uint32_t row_pitch = static_cast<uint32_t>(tile.tile_width) * tile.pitch,
                   column_pitch = is_input_ ? 8 : tile.pitch;
    std::vector<uint32_t> places;
    for (size_t i = 0; i < 2 * n_products(); ++i) {
      const Group group = at(i);
      const size_t place = group.row * row_pitch + group.column * column_pitch + group.part * 8;
      places.push_back(group.is_there ? static_cast<uint32_t>(place * sizeof(Float16)) : 0);
    }
    return places;
  }

 private:
  bool is_input_;
  size_t n_rows_, n_columns_, n_parts_;
};

// Weights [kernel, kernel, channels in, channels out] as halves [channels out / 8, products, 32 lanes].
inline std::vector<FragmentB> fragments_of(const Description& description, const Description::Step& step) {
  const size_t n_in = description.shapes()[step.in].channels, n_out = description.shapes()[step.out].channels;
  const Groups groups(step.kernel, step.in == 0 ? 4 : n_in);
  const auto weight = [&](size_t i, size_t value, size_t channel_out) {
    const Groups::Group group = groups.at(i);
    const size_t column = step.in == 0 ? 2 * group.column + value / 4 : group.column;
    const size_t channel = step.in == 0 ? value % 4 : 8 * group.part + value;
    if (!group.is_there || column >= step.kernel || channel >= n_in) return 0.0f;
    return step.weights[((group.row * step.kernel + column) * n_in + channel) * n_out + channel_out];
  };
  std::vector<FragmentB> fragments;
  for (size_t eight = 0; eight < n_out / 8; ++eight)
    for (size_t product = 0; product < groups.n_products(); ++product)
      for (size_t lane = 0; lane < 32; ++lane) {
        FragmentB fragment;
        for (size_t i = 0; i < 2; ++i) {
          const size_t group = 2 * product + i, value = 2 * (lane % 4), channel_out = 8 * eight + lane / 4;
          fragment.of[i] = narrowed_pair(weight(group, value, channel_out), weight(group, value + 1, channel_out));
        }
        fragments.push_back(fragment);
      }
  return fragments;
}

}  // namespace cuda
}  // namespace athsearch
