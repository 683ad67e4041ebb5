// What a thread of a network's stage does: a kernel calls `run_step` for one step after the other with barriers
// between, a test in any order of the threads. Tiles and planes hold floats, or 16-bit ones, whose convolutions are a
// warp's work (convolve_f16.h); sums are floats.
//
// A stage is some neighbouring steps of a network. A block does them for one tile of the picture: a step reads tiles in
// shared memory and leaves one there, and only what later stages need is written to the GPU's memory. Tiles are larger
// by what the windows of the steps after them reach; that border is computed by several blocks. What a tile has outside
// of the picture is zero, as the windows want it.
//
// A block that streams does the tiles of a strip, bands of a few rows, from top to bottom, all steps for each. Steps
// are ahead of those that read from them by as many rows as windows reach, so that each band makes as many rows as its
// core has, none of them twice; before the first row come a few bands that make only what others are ahead. The last
// rows of a tile, which windows of the next band reach, are kept beside the tiles: a step makes a plane's new rows and
// takes back those kept, the step after it keeps the last of all these. So tiles still share room.
#pragma once

#include <cmath>

#include "fragments.h"
#include "tile.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kMostStageSteps = 16, kMostStagePlanes = 20;
constexpr unsigned kMostPixels = 4, kSumChannels = 8;  // that a thread convolves at once, in registers

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
  uint32_t in, out, added;     // numbers of the stage's planes
  const float* weights;        // [kernel, kernel, channels in, channels out]; of a gate [2, 3, 3]
  const FragmentB* fragments;  // the same for 16-bit floats, as convolve_f16.h wants them
  const uint32_t* groups;      // and where in a window what they are multiplied with lies: [n_products, 2]
  const float* bias;           // [channels out]
  int kernel, stride;
  unsigned n_products;
  bool is_rectified, has_added;
  float share, offset;  // of the mean: 1 / channels; of the gate
};

struct Stage {
  const uint8_t* squares;  // [n_images, size, size, 3]
  const float* table;      // [3, 256]: what a channel's values become
  int order[3];            // the channels' places in a square
  Dtype dtype;             // of tiles and planes: kFloat32 or kFloat16
  unsigned n_steps, n_tiles_y, n_tiles_x;
  unsigned n_streamed;        // tiles that a block does, one below the other; 1: it does not stream
  int n_lead, n_lead_at_top;  // tiles before a block's first, where that is in the picture and where it is its first
  TiledPlane planes[kMostStagePlanes];
  StageStep steps[kMostStageSteps];
};

ATH_BOTH unsigned n_blocks_of_image(const Stage& stage) {
  return (stage.n_tiles_y + stage.n_streamed - 1) / stage.n_streamed * stage.n_tiles_x;
}

// How many tiles a block streams where a GPU has room for so many blocks at once: the less, the shorter few images
// take, though each block has its lead.
inline unsigned n_streamed_for(const Stage& stage, size_t n_images, size_t n_blocks_at_once) {
  const size_t n_parts = n_blocks_at_once / (n_images * stage.n_tiles_x);
  if (stage.n_streamed == 1 || n_parts < 2) return stage.n_streamed;
  const auto n = static_cast<unsigned>((stage.n_tiles_y + n_parts - 1) / n_parts);
  return static_cast<int>(n) + stage.n_lead < static_cast<int>(stage.n_tiles_y) + stage.n_lead_at_top
             ? n
             : stage.n_streamed;
}

// The first of a block's tiles: it goes on with the next y until end_y.
template <class T>
ATH_BOTH TileOfImage first_tile(const Stage& stage, size_t image, unsigned block) {
  const int x = static_cast<int>(block % stage.n_tiles_x), y = static_cast<int>(block / stage.n_tiles_x);
  if (!kMayStream<T>) return {image, y, x, y, y + 1};
  const int n = static_cast<int>(stage.n_streamed), begin = y * n;
  return {image, most(begin - stage.n_lead, -stage.n_lead_at_top), x, begin,
          least(begin + n, static_cast<int>(stage.n_tiles_y))};
}

// run(pixel, first channel), for what a thread does of the channels at once.
template <class T, class Run>
ATH_BOTH void each_part(unsigned thread, const Target<T>& to, Run run) {
  const int n_parts = to.plane.channels / kAtOnce<T>, n = to.area.n_pixels() * n_parts;
  const Divisor by_parts(n_parts);
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const int pixel = by_parts.quotient(i);
    run(to.area.pixel(pixel), (i - pixel * n_parts) * kAtOnce<T>);
  }
}

template <class T>
ATH_BOTH void read_squares(unsigned thread, const Stage& stage, const Target<T>& to) {
  const int n = to.area.n_pixels();
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const size_t size = static_cast<size_t>(to.plane.width);
    const uint8_t* square =
        stage.squares + ((to.tile.image * size + static_cast<size_t>(at.y)) * size + static_cast<size_t>(at.x)) * 3;
    Values<float, 4> values{};
    ATH_UNROLL
    for (unsigned channel = 0; channel < 3; ++channel)
      values.at[channel] = stage.table[256 * channel + square[stage.order[channel]]];
    to.put(to.place(at), 0, values);
  }
}

template <class T>
ATH_BOTH void read_plane(unsigned thread, const Target<T>& to) {
  each_part(thread, to, [&](Pixel at, int channel) {
    using Part = Values<T, kAtOnce<T>>;
    const T* from = static_cast<const T*>(to.plane.values) + to.image + to.of_image.place(at) + channel;
    *reinterpret_cast<Part*>(to.shared + to.of_tile.place(at) + channel) = *reinterpret_cast<const Part*>(from);
  });
}

// A thread has kPixels pixels by kSumChannels channels in registers: of four channels in, for each pixel of the window,
// one load a pixel and eight of weights, which neighbouring threads share, feed 32 multiply-adds a pixel.
template <unsigned kPixels>
ATH_BOTH void convolve_pixels(unsigned thread, const StageStep& step, const TiledPlane& in, const TiledPlane& added,
                              const Target<float>& to) {
  const int n_pixels = to.area.n_pixels(),
            n_groups = (n_pixels + static_cast<int>(kPixels) - 1) / static_cast<int>(kPixels);
  const int n_out = to.plane.channels, n_in = in.channels, n = n_groups * (n_out / static_cast<int>(kSumChannels));
  const float* shared = to.shared;
  const Layout from = in_tile(in, to.tile);
  const Source<float> addend(added, to.tile, shared);
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const int group = i % n_groups, channel = i / n_groups * static_cast<int>(kSumChannels);
    unsigned windows[kPixels];
    float sums[kPixels][kSumChannels];
    ATH_UNROLL
    for (unsigned p = 0; p < kPixels; ++p) {
      const Pixel at = to.area.pixel(least(group + static_cast<int>(p) * n_groups, n_pixels - 1));
      const int reach = step.kernel / 2;
      windows[p] = from.place({at.y * step.stride - reach, at.x * step.stride - reach});
      ATH_UNROLL
      for (unsigned c = 0; c < kSumChannels; ++c) sums[p][c] = step.bias[static_cast<unsigned>(channel) + c];
    }
    const float* weights = step.weights + channel;
    for (int ky = 0; ky < step.kernel; ++ky)
      for (int kx = 0; kx < step.kernel; ++kx) {
        const unsigned neighbour = static_cast<unsigned>(ky * in.tile_width + kx) * in.pitch;
        for (int first = 0; first < n_in; first += 4, weights += 4 * n_out) {
          Values<float, 4> values[kPixels];
          ATH_UNROLL
          for (unsigned p = 0; p < kPixels; ++p)
            values[p] = load<4>(shared + windows[p] + neighbour + static_cast<unsigned>(first));
          ATH_UNROLL
          for (unsigned c = 0; c < 4; ++c) {
            const Values<float, 4> low = load_constant(weights + static_cast<int>(c) * n_out);
            const Values<float, 4> high = load_constant(weights + static_cast<int>(c) * n_out + 4);
            ATH_UNROLL
            for (unsigned p = 0; p < kPixels; ++p) {
              ATH_UNROLL
              for (unsigned k = 0; k < 4; ++k) {
                sums[p][k] += values[p].at[c] * low.at[k];
                sums[p][k + 4] += values[p].at[c] * high.at[k];
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
        Values<float, 4> more{};
        if (step.has_added) more = load<4>(addend.at(at) + place);
        ATH_UNROLL
        for (unsigned k = 0; k < 4; ++k) {
          more.at[k] += sums[p][half + k];
          if (step.is_rectified) more.at[k] = larger(0, more.at[k]);
        }
        to.put(to.place(at), place, more);
      }
    }
  }
}

// Small tiles of few channels have too little for all threads: then each takes a single pixel.
ATH_BOTH void convolve(unsigned thread, const StageStep& step, const TiledPlane& in, const TiledPlane& added,
                       const Target<float>& to) {
  if (to.area.n_pixels() * (to.plane.channels / static_cast<int>(kSumChannels)) > static_cast<int>(2 * kStageThreads))
    convolve_pixels<kMostPixels>(thread, step, in, added, to);
  else
    convolve_pixels<1>(thread, step, in, added, to);
}

template <bool kIsMaximum, class T>
ATH_BOTH void pool(unsigned thread, const TiledPlane& in, const Target<T>& to) {
  constexpr unsigned kValues = kAtOnce<T>;
  const Layout from_tile = in_tile(in, to.tile);
  each_part(thread, to, [&](Pixel at, int channel) {
    const T* window = to.shared + from_tile.place({at.y - 1, at.x - 1}) + channel;
    Values<T, kValues> maximum{};
    Values<float, kValues> sum{};
    ATH_UNROLL
    for (int k = 0; k < 9; ++k) {
      const T* from = window + static_cast<unsigned>(k / 3 * in.tile_width + k % 3) * in.pitch;
      if (kIsMaximum) {
        keep_larger(maximum, load_as_they_are<kValues>(from));
      } else {
        const Values<float, kValues> values = load<kValues>(from);
        ATH_UNROLL
        for (unsigned c = 0; c < kValues; ++c) sum.at[c] += values.at[c];
      }
    }
    ATH_UNROLL
    for (unsigned c = 0; c < kValues; ++c) sum.at[c] = kIsMaximum ? widen(maximum.at[c]) : sum.at[c] * (1.0f / 9);
    to.put(to.place(at), channel, sum);
  });
}

template <class T>
ATH_BOTH void make_statistics(unsigned thread, const StageStep& step, const TiledPlane& in, const Target<T>& to) {
  constexpr unsigned kValues = kAtOnce<T>;
  const int n = to.area.n_pixels();
  const Layout from = in_tile(in, to.tile);
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const T* pixel = to.shared + from.place(at);
    Values<float, kValues> sum = load<kValues>(pixel), maximum = sum;
    for (int channel = kAtOnce<T>; channel < in.channels; channel += kAtOnce<T>) {
      const Values<float, kValues> values = load<kValues>(pixel + channel);
      ATH_UNROLL
      for (unsigned c = 0; c < kValues; ++c) {
        sum.at[c] += values.at[c];
        maximum.at[c] = larger(maximum.at[c], values.at[c]);
      }
    }
    ATH_UNROLL
    for (unsigned n = 1; n < kValues; n *= 2) {
      ATH_UNROLL
      for (unsigned c = 0; c < kValues; c += 2 * n) {
        sum.at[c] += sum.at[c + n];
        maximum.at[c] = larger(maximum.at[c], maximum.at[c + n]);
      }
    }
    T* map = to.shared + to.of_tile.place(at);
    map[0] = narrowed<T>(sum.at[0] * step.share);
    map[1] = narrowed<T>(maximum.at[0]);
  }
}

template <class T>
ATH_BOTH void make_gate(unsigned thread, const StageStep& step, const TiledPlane& in, const Target<T>& to) {
  const int n = to.area.n_pixels();
  const Layout from = in_tile(in, to.tile);
  for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
    const Pixel at = to.area.pixel(i);
    const T* window = to.shared + from.place({at.y - 1, at.x - 1});
    float sum = 0;
    ATH_UNROLL
    for (int k = 0; k < 9; ++k) {
      const T* map = window + static_cast<unsigned>(k / 3 * in.tile_width + k % 3) * in.pitch;
      sum += step.weights[k] * widen(map[0]) + step.weights[9 + k] * widen(map[1]);
    }
    to.shared[to.of_tile.place(at)] = narrowed<T>(1.0f / (1.0f + expf(-sum)) + step.offset);
  }
}

template <class T>
ATH_BOTH void scale(unsigned thread, const TiledPlane& in, const TiledPlane& gate, const Target<T>& to) {
  constexpr unsigned kValues = kAtOnce<T>;
  const Layout from = in_tile(in, to.tile), factors = in_tile(gate, to.tile);
  each_part(thread, to, [&](Pixel at, int channel) {
    const float factor = widen(to.shared[factors.place(at)]);
    Values<float, kValues> values = load<kValues>(to.shared + from.place(at) + channel);
    ATH_UNROLL
    for (unsigned c = 0; c < kValues; ++c) values.at[c] *= factor;
    to.put(to.place(at), channel, values);
  });
}

// Whether a step is the work of warps, by convolve_f16.h, instead of run_step's.
template <class T>
ATH_BOTH bool is_of_warps(const StageStep& step) {
  return sizeof(T) == 2 && step.kind == StageStepKind::kConvolve;
}

// One step of a block's tile. shared: aligned to 16 bytes, as large as the tiles need.
template <class T>
ATH_BOTH void run_step(unsigned thread, const Stage& stage, const StageStep& step, const TileOfImage& tile, T* shared) {
  const TiledPlane& in = stage.planes[step.in];
  const Target<T> to(stage.planes[step.out], tile, shared);
  switch (step.kind) {
    case StageStepKind::kReadSquares:
      read_squares(thread, stage, to);
      break;
    case StageStepKind::kRead:
      read_plane(thread, to);
      break;
    case StageStepKind::kConvolve:
      if constexpr (sizeof(T) == 4) convolve(thread, step, in, stage.planes[step.added], to);
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

// With each step: its tile takes the rows that were kept of the tile before, and those of the step before are kept.
template <class T>
ATH_BOTH void pass_rows_on(unsigned thread, const Stage& stage, unsigned number, T* shared) {
  take_kept_rows(thread, stage.planes[stage.steps[number].out], shared);
  if (number > 0) keep_rows(thread, stage.planes[stage.steps[number - 1].out], shared);
}

}  // namespace cuda
}  // namespace athsearch
