// What a thread of a network's stage does: a kernel calls `run_step` for one step after the other with barriers
// between, a test in any order of the threads.
//
// A stage is some neighbouring steps of a network. A block does them for one tile of the picture: a step reads tiles in
// shared memory and leaves one there, and only what later stages need is written to the GPU's memory. Tiles are larger
// by what the windows of the steps after them reach; that border is computed by several blocks. What a tile has outside
// of the picture is zero, as the windows want it.
#pragma once

#include <cmath>

#include "portable.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kStageThreads = 256;
constexpr unsigned kMostStageSteps = 16, kMostStagePlanes = 20;
constexpr unsigned kMostPixels = 4, kSumChannels = 8;  // that a thread convolves at once, in registers
constexpr unsigned kNowhere = ~0u;

// A plane [height, width, channels] of every image, and the tile that a block has of it.
struct TiledPlane {
  float* values;                // [n_images, height, width, channels] in the GPU's memory; null: in tiles only
  unsigned tile;                // where the tile begins in shared memory, in floats; kNowhere: there is none
  unsigned pitch;               // floats from a pixel of the tile to the next
  int height, width, channels;  // channels: a multiple of 8, but for the input's 4 and those of maps
  int core_height, core_width;  // what a block alone writes to the GPU's memory
  int before_y, before_x;       // rows and columns of the tile before its core
  int tile_height, tile_width;
};

enum class StageStepKind : uint32_t {
  kReadSquares,  // squares to a tile of four channels, the last zero
  kRead,         // a plane to its tile
  kConvolve,     // with a bias; then `added`, and max(0, .)
  kPoolMaximum,  // windows of 3 x 3; right for values that are not negative
  kPoolAverage,
  kStatistics,  // mean and maximum over channels, a map of two
  kGate,        // sigmoid of a 3 x 3 convolution of that map, plus offset: a map of one
  kScale,       // a plane times its gate, `added`
};

struct StageStep {
  StageStepKind kind;
  uint32_t in, out, added;  // numbers of the stage's planes
  const float* weights;     // [kernel, kernel, channels in, channels out]; of a gate [2, 3, 3]
  const float* bias;        // [channels out]
  int kernel, stride;
  bool is_rectified, has_added;
  float share, offset;  // of the mean: 1 / channels; of the gate
};

struct Stage {
  const uint8_t* squares;  // [n_images, size, size, 3]
  const float* table;      // [3, 256]: what a channel's values become
  int order[3];            // the channels' places in a square
  unsigned n_steps, n_tiles_y, n_tiles_x;
  TiledPlane planes[kMostStagePlanes];
  StageStep steps[kMostStageSteps];
};

// Which tile of which image a block does.
struct TileOfImage {
  size_t image;
  int y, x;
};

ATH_BOTH TileOfImage tile_of_image(const Stage& stage, size_t image, unsigned tile) {
  return {image, static_cast<int>(tile / stage.n_tiles_x), static_cast<int>(tile % stage.n_tiles_x)};
}

// Four neighbouring channels.
struct alignas(16) Four {
  float of[4];
};

ATH_BOTH Four load(const float* from) {
#ifdef __CUDA_ARCH__
  const float4 four = *reinterpret_cast<const float4*>(from);
  return {{four.x, four.y, four.z, four.w}};
#else
  return {{from[0], from[1], from[2], from[3]}};
#endif
}

// From memory that no kernel writes to while this one runs.
ATH_BOTH Four load_constant(const float* from) {
#ifdef __CUDA_ARCH__
  const float4 four = __ldg(reinterpret_cast<const float4*>(from));
  return {{four.x, four.y, four.z, four.w}};
#else
  return load(from);
#endif
}

ATH_BOTH void store(float* to, const Four& four) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<float4*>(to) = make_float4(four.of[0], four.of[1], four.of[2], four.of[3]);
#else
  for (unsigned i = 0; i < 4; ++i) to[i] = four.of[i];
#endif
}

ATH_BOTH int least(int a, int b) { return a < b ? a : b; }
ATH_BOTH int most(int a, int b) { return a > b ? a : b; }
ATH_BOTH float larger(float a, float b) { return a > b ? a : b; }  // NaN stays NaN as the second one

struct Pixel {
  int y, x;
};

// Pixels of the picture from (y, x) on.
struct Area {
  int y, x, height, width;

  ATH_BOTH int n_pixels() const { return height * width; }
  ATH_BOTH Pixel pixel(int i) const { return {y + i / width, x + i % width}; }
  ATH_BOTH bool holds(Pixel at) const { return at.y >= y && at.y < y + height && at.x >= x && at.x < x + width; }
};

ATH_BOTH Area cut_off(const TiledPlane& plane, int y, int x, int height, int width) {
  const int first_y = most(y, 0), first_x = most(x, 0);
  return {first_y, first_x, least(y + height, plane.height) - first_y, least(x + width, plane.width) - first_x};
}

// What a tile has of the picture, and what of that is its block's alone.
ATH_BOTH Area tile_area(const TiledPlane& plane, const TileOfImage& tile) {
  return cut_off(plane, tile.y * plane.core_height - plane.before_y, tile.x * plane.core_width - plane.before_x,
                 plane.tile_height, plane.tile_width);
}
ATH_BOTH Area core_area(const TiledPlane& plane, const TileOfImage& tile) {
  return cut_off(plane, tile.y * plane.core_height, tile.x * plane.core_width, plane.core_height, plane.core_width);
}

// Where a pixel's first channel lies in shared memory, in floats.
ATH_BOTH unsigned place_in_tile(const TiledPlane& plane, const TileOfImage& tile, Pixel at) {
  const int y = at.y - (tile.y * plane.core_height - plane.before_y);
  const int x = at.x - (tile.x * plane.core_width - plane.before_x);
  return plane.tile + static_cast<unsigned>(y * plane.tile_width + x) * plane.pitch;
}

ATH_BOTH size_t place_in_plane(const TiledPlane& plane, const TileOfImage& tile, Pixel at) {
  return ((tile.image * static_cast<size_t>(plane.height) + static_cast<size_t>(at.y)) *
              static_cast<size_t>(plane.width) +
          static_cast<size_t>(at.x)) *
         static_cast<size_t>(plane.channels);
}

// What a step makes goes to its tile, where it has one, and to its plane, where that is wanted.
struct Target {
  const TiledPlane& plane;
  const TileOfImage& tile;
  float* shared;
  Area area;

  ATH_BOTH Target(const TiledPlane& of, const TileOfImage& here, float* in)
      : plane(of), tile(here), shared(in), area(tile_area(of, here)) {}

  ATH_BOTH void put(Pixel at, int channel, const Four& values) const {
    if (plane.tile != kNowhere) store(shared + place_in_tile(plane, tile, at) + channel, values);
    if (plane.values != nullptr && core_area(plane, tile).holds(at))
      store(plane.values + place_in_plane(plane, tile, at) + channel, values);
  }

  // Zeros to what the tile has outside of the picture.
  ATH_BOTH void clear_outside(unsigned thread) const {
    const int n = plane.tile_height * plane.tile_width;
    if (plane.tile == kNowhere || area.n_pixels() == n) return;
    const Area whole{tile.y * plane.core_height - plane.before_y, tile.x * plane.core_width - plane.before_x,
                     plane.tile_height, plane.tile_width};
    for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
      if (area.holds(whole.pixel(i))) continue;
      float* values = shared + plane.tile + static_cast<unsigned>(i) * plane.pitch;
      for (int channel = 0; channel < plane.channels; ++channel) values[channel] = 0;
    }
  }
};

ATH_BOTH void read_squares(unsigned thread, const Stage& stage, const Target& to) {
  const int n = to.area.n_pixels();
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const size_t size = static_cast<size_t>(to.plane.width);
    const uint8_t* square =
        stage.squares + ((to.tile.image * size + static_cast<size_t>(at.y)) * size + static_cast<size_t>(at.x)) * 3;
    Four values{};
    ATH_UNROLL
    for (unsigned channel = 0; channel < 3; ++channel)
      values.of[channel] = stage.table[256 * channel + square[stage.order[channel]]];
    to.put(at, 0, values);
  }
}

// `in` is the plane that the tile `to` is of.
ATH_BOTH void read_plane(unsigned thread, const Target& to) {
  const int n_fours = to.plane.channels / 4, n = to.area.n_pixels() * n_fours;
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i / n_fours);
    const int channel = i % n_fours * 4;
    store(to.shared + place_in_tile(to.plane, to.tile, at) + channel,
          load(to.plane.values + place_in_plane(to.plane, to.tile, at) + channel));
  }
}

// A thread has kPixels pixels by kSumChannels channels in registers: of four channels in, for each pixel of the window,
// one load a pixel and eight of weights, which neighbouring threads share, feed 32 multiply-adds a pixel.
template <unsigned kPixels>
ATH_BOTH void convolve_pixels(unsigned thread, const StageStep& step, const TiledPlane& in, const TiledPlane& added,
                              const Target& to) {
  const int n_pixels = to.area.n_pixels(),
            n_groups = (n_pixels + static_cast<int>(kPixels) - 1) / static_cast<int>(kPixels);
  const int n_out = to.plane.channels, n_in = in.channels, n = n_groups * (n_out / static_cast<int>(kSumChannels));
  const float* shared = to.shared;
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const int group = i % n_groups, channel = i / n_groups * static_cast<int>(kSumChannels);
    unsigned windows[kPixels];
    float sums[kPixels][kSumChannels];
    ATH_UNROLL
    for (unsigned p = 0; p < kPixels; ++p) {
      const Pixel at = to.area.pixel(least(group + static_cast<int>(p) * n_groups, n_pixels - 1));
      const int reach = step.kernel / 2;
      windows[p] = place_in_tile(in, to.tile, {at.y * step.stride - reach, at.x * step.stride - reach});
      ATH_UNROLL
      for (unsigned c = 0; c < kSumChannels; ++c) sums[p][c] = step.bias[static_cast<unsigned>(channel) + c];
    }
    const float* weights = step.weights + channel;
    for (int ky = 0; ky < step.kernel; ++ky)
      for (int kx = 0; kx < step.kernel; ++kx) {
        const unsigned neighbour = static_cast<unsigned>(ky * in.tile_width + kx) * in.pitch;
        for (int from = 0; from < n_in; from += 4, weights += 4 * n_out) {
          Four values[kPixels];
          ATH_UNROLL
          for (unsigned p = 0; p < kPixels; ++p)
            values[p] = load(shared + windows[p] + neighbour + static_cast<unsigned>(from));
          ATH_UNROLL
          for (unsigned c = 0; c < 4; ++c) {
            const Four low = load_constant(weights + static_cast<int>(c) * n_out);
            const Four high = load_constant(weights + static_cast<int>(c) * n_out + 4);
            ATH_UNROLL
            for (unsigned p = 0; p < kPixels; ++p) {
              ATH_UNROLL
              for (unsigned k = 0; k < 4; ++k) {
                sums[p][k] += values[p].of[c] * low.of[k];
                sums[p][k + 4] += values[p].of[c] * high.of[k];
              }
            }
          }
        }
      }
    ATH_UNROLL
    for (unsigned p = 0; p < kPixels; ++p) {
      const int number = group + static_cast<int>(p) * n_groups;
      if (number >= n_pixels) break;
      const Pixel at = to.area.pixel(number);
      ATH_UNROLL
      for (unsigned half = 0; half < kSumChannels; half += 4) {
        const int place = channel + static_cast<int>(half);
        Four more{};
        if (step.has_added)
          more = added.tile != kNowhere ? load(shared + place_in_tile(added, to.tile, at) + place)
                                        : load(added.values + place_in_plane(added, to.tile, at) + place);
        ATH_UNROLL
        for (unsigned k = 0; k < 4; ++k) {
          more.of[k] += sums[p][half + k];
          if (step.is_rectified) more.of[k] = larger(0, more.of[k]);
        }
        to.put(at, place, more);
      }
    }
  }
}

// Small tiles of few channels have too little for all threads: then each takes a single pixel.
ATH_BOTH void convolve(unsigned thread, const StageStep& step, const TiledPlane& in, const TiledPlane& added,
                       const Target& to) {
  if (to.area.n_pixels() * (to.plane.channels / static_cast<int>(kSumChannels)) > static_cast<int>(2 * kStageThreads))
    convolve_pixels<kMostPixels>(thread, step, in, added, to);
  else
    convolve_pixels<1>(thread, step, in, added, to);
}

template <bool kIsMaximum>
ATH_BOTH void pool(unsigned thread, const TiledPlane& in, const Target& to) {
  const int n_fours = to.plane.channels / 4, n = to.area.n_pixels() * n_fours;
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i / n_fours);
    const int channel = i % n_fours * 4;
    const float* window = to.shared + place_in_tile(in, to.tile, {at.y - 1, at.x - 1}) + channel;
    Four pooled{};
    ATH_UNROLL
    for (int k = 0; k < 9; ++k) {
      const Four values = load(window + static_cast<unsigned>(k / 3 * in.tile_width + k % 3) * in.pitch);
      ATH_UNROLL
      for (unsigned c = 0; c < 4; ++c)
        pooled.of[c] = kIsMaximum ? larger(pooled.of[c], values.of[c]) : pooled.of[c] + values.of[c];
    }
    if (!kIsMaximum) {
      ATH_UNROLL
      for (unsigned c = 0; c < 4; ++c) pooled.of[c] *= 1.0f / 9;
    }
    to.put(at, channel, pooled);
  }
}

ATH_BOTH void make_statistics(unsigned thread, const StageStep& step, const TiledPlane& in, const Target& to) {
  const int n = to.area.n_pixels();
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const float* pixel = to.shared + place_in_tile(in, to.tile, at);
    Four sum = load(pixel), maximum = sum;
    for (int channel = 4; channel < in.channels; channel += 4) {
      const Four values = load(pixel + channel);
      ATH_UNROLL
      for (unsigned c = 0; c < 4; ++c) {
        sum.of[c] += values.of[c];
        maximum.of[c] = larger(maximum.of[c], values.of[c]);
      }
    }
    float* map = to.shared + place_in_tile(to.plane, to.tile, at);
    map[0] = ((sum.of[0] + sum.of[1]) + (sum.of[2] + sum.of[3])) * step.share;
    map[1] = larger(larger(maximum.of[0], maximum.of[1]), larger(maximum.of[2], maximum.of[3]));
  }
}

ATH_BOTH void make_gate(unsigned thread, const StageStep& step, const TiledPlane& in, const Target& to) {
  const int n = to.area.n_pixels();
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const float* window = to.shared + place_in_tile(in, to.tile, {at.y - 1, at.x - 1});
    float sum = 0;
    ATH_UNROLL
    for (int k = 0; k < 9; ++k) {
      const float* map = window + static_cast<unsigned>(k / 3 * in.tile_width + k % 3) * in.pitch;
      sum += step.weights[k] * map[0] + step.weights[9 + k] * map[1];
    }
    to.shared[place_in_tile(to.plane, to.tile, at)] = 1.0f / (1.0f + expf(-sum)) + step.offset;
  }
}

ATH_BOTH void scale(unsigned thread, const TiledPlane& in, const TiledPlane& gate, const Target& to) {
  const int n_fours = to.plane.channels / 4, n = to.area.n_pixels() * n_fours;
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i / n_fours);
    const int channel = i % n_fours * 4;
    const float factor = to.shared[place_in_tile(gate, to.tile, at)];
    Four values = load(to.shared + place_in_tile(in, to.tile, at) + channel);
    ATH_UNROLL
    for (unsigned c = 0; c < 4; ++c) values.of[c] *= factor;
    to.put(at, channel, values);
  }
}

// One step of a block's tile. shared: aligned to 16 bytes, as large as the tiles need.
ATH_BOTH void run_step(unsigned thread, const Stage& stage, unsigned number, const TileOfImage& tile, float* shared) {
  const StageStep& step = stage.steps[number];
  const TiledPlane& in = stage.planes[step.in];
  const Target to(stage.planes[step.out], tile, shared);
  switch (step.kind) {
    case StageStepKind::kReadSquares:
      read_squares(thread, stage, to);
      break;
    case StageStepKind::kRead:
      read_plane(thread, to);
      break;
    case StageStepKind::kConvolve:
      convolve(thread, step, in, stage.planes[step.added], to);
      break;
    case StageStepKind::kPoolMaximum:
      pool<true>(thread, in, to);
      break;
    case StageStepKind::kPoolAverage:
      pool<false>(thread, in, to);
      break;
    case StageStepKind::kStatistics:
      make_statistics(thread, step, in, to);
      break;
    case StageStepKind::kGate:
      make_gate(thread, step, in, to);
      break;
    case StageStepKind::kScale:
      scale(thread, in, stage.planes[step.added], to);
      break;
  }
  to.clear_outside(thread);
}

}  // namespace cuda
}  // namespace athsearch
