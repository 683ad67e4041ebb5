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
  return (n_pixels + n_of_piece - 1) / n_of_piece * (n_out / 8 / n_eights(n_out));
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

// The pieces of warp `number`. Every lane has the window of one pixel of each set for loading, two pixels of each set
// and two channels of each eight for sums.
template <unsigned kSets, unsigned kEights, class AWarp>
ATH_DEVICE void convolve_sets(const AWarp& warp, unsigned number, const StageStep& step, const TiledPlane& in,
                              const TiledPlane& added, const Target<Float16>& to) {
  constexpr int kPixels = 16 * static_cast<int>(kSets);
  const int n_pixels = to.area.n_pixels(), n_groups = (n_pixels + kPixels - 1) / kPixels;
  const int n = n_groups * (to.plane.channels / 8 / static_cast<int>(kEights));
  const Layout from = in_tile(in, to.tile);
  const Source<Float16> addend(added, to.tile, to.shared);
  const unsigned n_products = step.n_products;
  const float least_value = step.is_rectified ? 0 : -INFINITY;
  for (int piece = static_cast<int>(number); piece < n; piece += static_cast<int>(kStageWarps)) {
    const int first = piece % n_groups * kPixels, eight = piece / n_groups * static_cast<int>(kEights);
    typename AWarp::template Each<FragmentC> sums[kSets][kEights];
    typename AWarp::template Each<unsigned> windows[kSets];
    warp.each([&](unsigned lane) {
      ATH_UNROLL
      for (unsigned set = 0; set < kSets; ++set) {
        const int pixel = first + 16 * static_cast<int>(set) + static_cast<int>(lane % 16);
        const Pixel at = to.area.pixel(least(pixel, n_pixels - 1));
        const int reach = step.kernel / 2;
        windows[set][lane] = from.place({at.y * step.stride - reach, at.x * step.stride - reach});
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) {
          const float* bias = step.bias + 8 * (static_cast<unsigned>(eight) + k) + 2 * (lane % 4);
          sums[set][k][lane] = {{bias[0], bias[1], bias[0], bias[1]}};
        }
      }
    });
    const FragmentB* fragments = step.fragments + static_cast<unsigned>(eight) * n_products * 32;
    for (unsigned product = 0; product < n_products; ++product, fragments += 32) {
      typename AWarp::template Each<unsigned> group;
      typename AWarp::template Each<FragmentB> weights[kEights];
      warp.each([&](unsigned lane) {
        group[lane] = load_constant(step.groups + 2 * product + lane / 16);
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) weights[k][lane] = load_constant(fragments + k * n_products * 32 + lane);
      });
      ATH_UNROLL
      for (unsigned set = 0; set < kSets; ++set) {
        typename AWarp::template Each<unsigned> places;
        typename AWarp::template Each<FragmentA> values;
        warp.each([&](unsigned lane) { places[lane] = windows[set][lane] + group[lane]; });
        warp.load_a(values, to.shared, places);
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) warp.mma_f16(sums[set][k], values, weights[k]);
      }
    }
    warp.each([&](unsigned lane) {
      ATH_UNROLL
      for (unsigned i = 0; i < 2 * kSets; ++i) {
        const int pixel = first + 8 * static_cast<int>(i) + static_cast<int>(lane / 4);
        if (pixel >= n_pixels) break;
        const Pixel at = to.area.pixel(pixel);
        const typename Target<Float16>::Place place = to.place(at);
        const Float16* const addends = step.has_added ? addend.at(at) : nullptr;
        ATH_UNROLL
        for (unsigned k = 0; k < kEights; ++k) {
          const int channel = 8 * (eight + static_cast<int>(k)) + 2 * static_cast<int>(lane % 4);
          Values<float, 2> more{};
          if (step.has_added) more = load<2>(addends + channel);
          ATH_UNROLL
          for (unsigned j = 0; j < 2; ++j)
            more.at[j] = larger(least_value, more.at[j] + sums[i / 2][k][lane].of[2 * (i % 2) + j]);
          to.put(place, channel, more);
        }
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
}

}  // namespace cuda
}  // namespace athsearch
