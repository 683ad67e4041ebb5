// Tiles of a network's planes: where their pixels lie, and how they are read and written.
//
// A block has tiles in shared memory. They hold floats, or 16-bit ones; sums are floats.
#pragma once

#include "floats.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kStageThreads = 256;  // of a block
constexpr unsigned kNowhere = ~0u;

// A plane [height, width, channels] of every image, and the tile that a block has of it.
struct TiledPlane {
  void* values;                 // [n_images, height, width, channels] in the GPU's memory; null: in tiles only
  bool is_wide;                 // these are floats, whatever the stage's tiles hold: what features are made of
  unsigned tile;                // where the tile begins in shared memory, in values; kNowhere: there is none
  unsigned pitch;               // values from a pixel of the tile to the next
  int height, width, channels;  // channels: a multiple of 8, but for the input's 4 and those of maps
  int core_height, core_width;  // what a block alone writes to the GPU's memory
  int before_y, before_x;       // rows and columns of the tile before its core
  int tile_height, tile_width;
};

// Which tile of which image a block does.
struct TileOfImage {
  size_t image;
  int y, x;
};

// Neighbouring channels that are read or written at once: 16 bytes of them.
template <class T>
constexpr int kAtOnce = 16 / sizeof(T);

template <unsigned kValues, class T>
ATH_BOTH Values<float, kValues> load(const T* from) {
  const auto values = *reinterpret_cast<const Values<T, kValues>*>(from);
  Values<float, kValues> wide;
  ATH_UNROLL
  for (unsigned i = 0; i < kValues; ++i) wide.at[i] = widen(values.at[i]);
  return wide;
}

// From memory that no kernel writes to while this one runs.
ATH_BOTH Values<float, 4> load_constant(const float* from) {
#ifdef __CUDA_ARCH__
  const float4 four = __ldg(reinterpret_cast<const float4*>(from));
  return {{four.x, four.y, four.z, four.w}};
#else
  return load<4>(from);
#endif
}

template <unsigned kValues>
ATH_BOTH void store(float* to, const Values<float, kValues>& values) {
  *reinterpret_cast<Values<float, kValues>*>(to) = values;
}
template <unsigned kValues>
ATH_BOTH void store(Float16* to, const Values<float, kValues>& wide) {
  Values<uint32_t, kValues / 2> pairs;
  ATH_UNROLL
  for (unsigned i = 0; i < kValues / 2; ++i) pairs.at[i] = narrowed_pair(wide.at[2 * i], wide.at[2 * i + 1]);
  *reinterpret_cast<Values<uint32_t, kValues / 2>*>(to) = pairs;
}

ATH_BOTH int least(int a, int b) { return a < b ? a : b; }
ATH_BOTH int most(int a, int b) { return a > b ? a : b; }

// NaN stays NaN.
ATH_BOTH float larger(float a, float b) {
#ifdef __CUDA_ARCH__
  float found;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));
  return found;
#else
  return a > b || a != a ? a : b;
#endif
}

// kept = max(kept, values), value by value.
ATH_BOTH void keep_larger(Values<float, 4>& kept, const Values<float, 4>& values) {
  ATH_UNROLL
  for (unsigned i = 0; i < 4; ++i) kept.at[i] = larger(kept.at[i], values.at[i]);
}
ATH_BOTH void keep_larger(Values<Float16, 8>& kept, const Values<Float16, 8>& values) {
#ifdef __CUDA_ARCH__  // two at once
  uint32_t pairs[4], others[4];
  memcpy(pairs, &kept, sizeof kept);
  memcpy(others, &values, sizeof values);
  ATH_UNROLL
  for (unsigned i = 0; i < 4; ++i) asm("max.NaN.f16x2 %0, %0, %1;" : "+r"(pairs[i]) : "r"(others[i]));
  memcpy(&kept, pairs, sizeof kept);
#else
  for (unsigned i = 0; i < 8; ++i) kept.at[i] = narrowed<Float16>(larger(widen(kept.at[i]), widen(values.at[i])));
#endif
}

// Divides numbers below 2^21 by one that many are divided by: half a unit more than the number, times the rounded
// reciprocal, is never as far off as the next integer.
class Divisor {
 public:
  ATH_BOTH explicit Divisor(int value) : reciprocal_(1.0f / static_cast<float>(value)) {}
  ATH_BOTH int quotient(int number) const {
    return static_cast<int>((static_cast<float>(number) + 0.5f) * reciprocal_);
  }

 private:
  float reciprocal_;
};

struct Pixel {
  int y, x;
};

// Pixels of the picture from (y, x) on.
struct Area {
  int y, x, height, width;
  Divisor by_width{width};

  ATH_BOTH int n_pixels() const { return height * width; }
  ATH_BOTH Pixel pixel(int i) const {
    const int row = by_width.quotient(i);
    return {y + row, x + i - row * width};
  }
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

// Where a pixel's first channel lies, from where others begin.
struct Layout {
  unsigned begin;
  int width;
  unsigned pitch;

  ATH_BOTH unsigned place(Pixel at) const { return begin + static_cast<unsigned>(at.y * width + at.x) * pitch; }
};

// In shared memory.
ATH_BOTH Layout in_tile(const TiledPlane& plane, const TileOfImage& tile) {
  const Layout from_first{0, plane.tile_width, plane.pitch};
  const Pixel first{tile.y * plane.core_height - plane.before_y, tile.x * plane.core_width - plane.before_x};
  return {plane.tile - from_first.place(first), plane.tile_width, plane.pitch};
}
// In the tile's image of the plane, and where that begins.
ATH_BOTH Layout in_image(const TiledPlane& plane) { return {0, plane.width, static_cast<unsigned>(plane.channels)}; }
ATH_BOTH size_t begin_of_image(const TiledPlane& plane, const TileOfImage& tile) {
  return tile.image * static_cast<size_t>(plane.height) * static_cast<size_t>(plane.width) *
         static_cast<size_t>(plane.channels);
}

// What a step reads: a tile, or a plane in the GPU's memory.
template <class T>
struct Source {
  const T* begin;
  Layout layout;

  ATH_BOTH Source(const TiledPlane& plane, const TileOfImage& tile, const T* shared)
      : begin(shared), layout(in_tile(plane, tile)) {
    if (plane.tile != kNowhere) return;
    begin = static_cast<const T*>(plane.values) + begin_of_image(plane, tile);
    layout = in_image(plane);
  }

  ATH_BOTH const T* at(Pixel pixel) const { return begin + layout.place(pixel); }
};

// What a step makes goes to its tile, where it has one, and to its plane, where that is wanted.
template <class T>
struct Target {
  // Of a pixel; kNowhere in an image that this block, or none, writes to.
  struct Place {
    unsigned in_tile, in_image;
  };

  const TiledPlane& plane;
  const TileOfImage& tile;
  T* shared;
  Area area, core;
  Layout of_tile, of_image;
  size_t image;

  ATH_BOTH Target(const TiledPlane& of, const TileOfImage& here, T* in)
      : plane(of),
        tile(here),
        shared(in),
        area(tile_area(of, here)),
        core(core_area(of, here)),
        of_tile(in_tile(of, here)),
        of_image(in_image(of)),
        image(begin_of_image(of, here)) {}

  ATH_BOTH Place place(Pixel at) const {
    return {of_tile.place(at), plane.values != nullptr && core.holds(at) ? of_image.place(at) : kNowhere};
  }

  template <unsigned kValues>
  ATH_BOTH void put(Place place, int channel, const Values<float, kValues>& values) const {
    if (plane.tile != kNowhere) store(shared + place.in_tile + channel, values);
    if (place.in_image == kNowhere) return;
    const size_t to = image + place.in_image + static_cast<unsigned>(channel);
    if (sizeof(T) < sizeof(float) && plane.is_wide)
      store(static_cast<float*>(plane.values) + to, values);
    else
      store(static_cast<T*>(plane.values) + to, values);
  }

  // Zeros to what the tile has outside of the picture.
  ATH_BOTH void clear_outside(unsigned thread) const {
    const int n = plane.tile_height * plane.tile_width;
    if (plane.tile == kNowhere || area.n_pixels() == n) return;
    const Area whole{tile.y * plane.core_height - plane.before_y, tile.x * plane.core_width - plane.before_x,
                     plane.tile_height, plane.tile_width};
    for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
      if (area.holds(whole.pixel(i))) continue;
      T* values = shared + plane.tile + static_cast<unsigned>(i) * plane.pitch;
      for (int channel = 0; channel < plane.channels; ++channel) values[channel] = T{};
    }
  }
};

}  // namespace cuda
}  // namespace athsearch
