// What a warp does of a convolution in 16-bit floats: an implicit matrix product on tensor cores, with sums in floats.
//
// Rows are pixels, columns are channels out. A product's 16 values of depth are two groups of eight neighbouring values
// of the window: eight channels of one of its pixels or, in the input of four channels, two neighbouring pixels, the
// fourth of a window's row with weights of zero. Groups follow each other by channel, column and row of the window, and
// a table says where they lie in a tile (groups.h). Of an odd number, the last product's second half is the first group
// again, with weights of zero.
#pragma once

#include "stage.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kStageWarps = kStageThreads / 32;
constexpr unsigned kMostSets = 4;  // of 16 pixels, that a warp convolves at once: they share the loads of weights

// Eights of channels out that a warp makes at once, and how many pieces of work a tile is with that many sets.
ATH_BOTH int n_eights(int n_out) { return n_out % 16 == 0 ? 2 : 1; }
ATH_BOTH int n_pieces(int n_pixels, int n_out, unsigned n_sets) {
  const int n_of_piece = 16 * static_cast<int>(n_sets);
  return (n_pixels + n_of_piece - 1) / n_of_piece * (n_out % 16 == 0 ? n_out / 16 : n_out / 8);
}
// Small tiles of few channels have too little for all warps with more.
ATH_BOTH unsigned n_sets(int n_pixels, int n_out) {
  return n_pieces(n_pixels, n_out, kMostSets) < static_cast<int>(kStageWarps) ? 1 : kMostSets;
}

ATH_BOTH uint32_t load_constant(const uint32_t* from) {
#ifdef __CUDA_ARCH__
  return __ldg(from);
#else
  return *from;
#endif
}

ATH_BOTH FragmentB load_constant(const FragmentB* from) {
#ifdef __CUDA_ARCH__
  const uint2 both = __ldg(reinterpret_cast<const uint2*>(from));
  return {{both.x, both.y}};
#else
  return *from;
#endif
}

// Where pixels of an area lie that come a number of pixels after each other, row by row: a division for the first one,
// a few additions for every other.
class Walk {
 public:
  struct At {
    int x;
    unsigned place;
  };

  // layout: of pixels (stride y - reach, stride x - reach) for (y, x).
  ATH_BOTH Walk(const Area& area, const Layout& layout, int n_pixels, int stride = 1, int reach = 0)
      : area_(area), layout_(layout), stride_(stride), reach_(reach) {
    const int rows = area.by_width.quotient(n_pixels);
    columns_ = n_pixels - rows * area.width;
    step_ = static_cast<unsigned>(stride * (rows * layout.width + columns_)) * layout.pitch;
    to_next_row_ = static_cast<unsigned>(stride * (layout.width - area.width)) * layout.pitch;
  }
  ATH_BOTH At at(int pixel) const {
    const Pixel at = area_.pixel(pixel);
    return {at.x - area_.x, place(at)};
  }
  // Where the area's last pixel lies.
  ATH_BOTH unsigned last() const { return place({area_.y + area_.height - 1, area_.x + area_.width - 1}); }
  ATH_BOTH At next(At at) const {
    at.x += columns_;
    at.place += step_;
    if (at.x >= area_.width) {
      at.x -= area_.width;
      at.place += to_next_row_;
    }
    return at;
  }

 private:
  ATH_BOTH unsigned place(Pixel at) const { return layout_.place({at.y * stride_ - reach_, at.x * stride_ - reach_}); }

  const Area& area_;
  const Layout& layout_;
  int stride_, reach_, columns_;
  unsigned step_, to_next_row_;
};

// The pieces of warp `number`. Every lane has the window of one pixel of each set for loading, two pixels of each set
// and two channels of each eight for sums.
template <unsigned kSets, unsigned kEights, class AWarp>
ATH_DEVICE void convolve_sets(const AWarp& warp, unsigned number, const StageStep& step, const TiledPlane& in,
                              const TiledPlane& added, const Target<Float16>& to) {
  using Sums = typename AWarp::template Each<FragmentC>;
  constexpr int kPixels = 16 * static_cast<int>(kSets);
  const int n_pixels = to.area.n_pixels(), n_groups = (n_pixels + kPixels - 1) / kPixels;
  const int n = n_groups * (to.plane.channels / 8 / static_cast<int>(kEights));
  const Divisor by_groups(n_groups);
  const unsigned n_products = step.n_products;
  for (int piece = static_cast<int>(number); piece < n; piece += static_cast<int>(kStageWarps)) {
    const int part = by_groups.quotient(piece), first = (piece - part * n_groups) * kPixels;
    const unsigned channel = 8 * kEights * static_cast<unsigned>(part);
    Sums sums[kSets][kEights], biases[kEights];
    typename AWarp::template Each<unsigned> windows[kSets];
    warp.each([&](unsigned lane) {
      const Layout layout = in_tile(in, to.tile);
      const Walk walk(to.area, layout, 16, step.stride, step.kernel / 2);
      const unsigned last = walk.last();
      auto at = walk.at(first + static_cast<int>(lane % 16));
      ATH_UNROLL
      for (unsigned set = 0; set < kSets; ++set, at = walk.next(at))
        windows[set][lane] = (at.place < last ? at.place : last) * static_cast<unsigned>(sizeof(Float16));
      ATH_UNROLL
      for (unsigned k = 0; k < kEights; ++k) {
        const auto bias = load<2>(step.bias + channel + 8 * k + 2 * (lane % 4));
        biases[k][lane] = {{bias.at[0], bias.at[1], bias.at[0], bias.at[1]}};
      }
    });
    const FragmentB* fragments = step.fragments + channel / 8 * n_products * 32;
    const uint32_t* groups = step.groups;
    const auto add_product = [&](auto begin) {
      typename AWarp::template Each<unsigned> group;
      typename AWarp::template Each<FragmentB> weights[kEights];
      warp.each([&](unsigned lane) {
        group[lane] = load_constant(groups + lane / 16);
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) weights[k][lane] = load_constant(fragments + k * n_products * 32 + lane);
      });
      groups += 2;
      fragments += 32;
      ATH_UNROLL
      for (unsigned set = 0; set < kSets; ++set) {
        typename AWarp::template Each<unsigned> places;
        typename AWarp::template Each<FragmentA> values;
        warp.each([&](unsigned lane) { places[lane] = windows[set][lane] + group[lane]; });
        warp.load_a(values, to.shared, places);
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) warp.mma_f16(sums[set][k], values, weights[k], begin(set, k));
      }
    };
    add_product([&](unsigned, unsigned k) -> Sums& { return biases[k]; });
    ATH_UNROLL_TWICE
    for (unsigned product = 1; product < n_products; ++product)
      add_product([&](unsigned set, unsigned k) -> Sums& { return sums[set][k]; });
    warp.each([&](unsigned lane) {
      const int first_pixel = first + static_cast<int>(lane / 4), n_left = n_pixels - first_pixel;
      const unsigned of_lane = channel + 2 * (lane % 4);
      // run(where a pixel lies in a layout, its number after the first, sums of two channels of eight k), for each.
      const auto each_sum = [&](const Layout& layout, auto run) {
        const Walk walk(to.area, layout, 8);
        auto at = walk.at(first_pixel);
        ATH_UNROLL
        for (unsigned i = 0; i < 2 * kSets; ++i, at = walk.next(at)) {
          if (static_cast<int>(8 * i) >= n_left) continue;
          ATH_UNROLL
          for (unsigned k = 0; k < kEights; ++k)
            run(at, static_cast<int>(8 * i), 8 * k, &sums[i / 2][k][lane].of[2 * (i % 2)]);
        }
      };
      if (step.has_added) {
        const Source<Float16> addend(added, to.tile, to.shared);
        each_sum(addend.layout, [&](const Walk::At& at, int, unsigned eight, float* sum) {
          const auto more = load<2>(addend.begin + (at.place + of_lane) + eight);
          sum[0] += more.at[0];
          sum[1] += more.at[1];
        });
      }
      if (step.is_rectified) {
        ATH_UNROLL
        for (unsigned set = 0; set < kSets; ++set) {
          ATH_UNROLL
          for (unsigned k = 0; k < kEights; ++k) {
            ATH_UNROLL
            for (unsigned j = 0; j < 4; ++j) sums[set][k][lane].of[j] = larger(0, sums[set][k][lane].of[j]);
          }
        }
      }
      if (to.plane.tile != kNowhere)
        each_sum(to.of_tile, [&](const Walk::At& at, int, unsigned eight, const float* sum) {
          store(to.shared + (at.place + of_lane) + eight, Values<float, 2>{{sum[0], sum[1]}});
        });
      if (to.plane.values != nullptr) {
        // The block's own rows as numbers of the area's pixels, and its columns.
        const Area core = core_area(to.plane, to.tile);
        const size_t begin = begin_of_image(to.plane, to.tile);
        const int own = (core.y - to.area.y) * to.area.width - first_pixel, own_x = core.x - to.area.x;
        const auto n_own = static_cast<unsigned>(core.height * to.area.width),
                   n_own_x = static_cast<unsigned>(core.width);
        const auto write = [&](auto* image) {
          each_sum(to.of_image, [&](const Walk::At& at, int pixel, unsigned eight, const float* sum) {
            if (static_cast<unsigned>(pixel - own) < n_own && static_cast<unsigned>(at.x - own_x) < n_own_x)
              store(image + (at.place + of_lane) + eight, Values<float, 2>{{sum[0], sum[1]}});
          });
        };
        if (to.plane.is_wide)
          write(static_cast<float*>(to.plane.values) + begin);
        else
          write(static_cast<Float16*>(to.plane.values) + begin);
      }
    });
  }
}

// What run_step leaves to a block's warps. Every one calls it, with its number.
template <class AWarp>
ATH_DEVICE void convolve(const AWarp& warp, unsigned number, const Stage& stage, const StageStep& step,
                         const TileOfImage& tile, Float16* shared) {
  const Target<Float16> to(stage.planes[step.out], tile, shared);
  const TiledPlane &in = stage.planes[step.in], &added = stage.planes[step.added];
  const bool is_small = n_sets(to.area.n_pixels(), to.plane.channels) == 1;
  if (n_eights(to.plane.channels) == 2) {
    if (is_small)
      convolve_sets<1, 2>(warp, number, step, in, added, to);
    else
      convolve_sets<kMostSets, 2>(warp, number, step, in, added, to);
  } else if (is_small) {
    convolve_sets<1, 1>(warp, number, step, in, added, to);
  } else {
    convolve_sets<kMostSets, 1>(warp, number, step, in, added, to);
  }
  warp.each([&](unsigned lane) { to.clear_outside(32 * number + lane); });
}

}  // namespace cuda
}  // namespace athsearch
