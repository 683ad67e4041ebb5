// Tiles of a network's planes: where their pixels lie, and how they are read and written.
//
// A block has tiles in shared memory. They hold floats, or 16-bit ones; sums are floats. Where a block streams, it does
// the tiles of a strip from top to bottom, and a tile's upper rows are not made anew, but kept from the tile before.
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
  int core_height, core_width;  // what tiles have for themselves, and blocks alone write to the GPU's memory
  int before_y, before_x;       // rows and columns of the tile before its core; streamed ones may begin behind it
  int tile_height, tile_width;
  int made_height;  // the tile's last rows, which are made for it
  int kept_height;  // rows above these, from the tile before
  unsigned kept;    // where they are kept meanwhile, in shared memory
  int reach;        // rows that are needed before a block's first core
};

// Which tile of which image a block does. The block has the cores of tiles begin_y to end_y - 1; before them a
// streaming one does a few more for what their windows reach.
struct TileOfImage {
  size_t image;
  int y, x;
  int begin_y, end_y;
};

// Only tiles of 16-bit floats are streamed: a kernel of 32-bit ones has no registers left for it.
template <class T>
constexpr bool kMayStream = sizeof(T) == 2;

// Neighbouring channels that are read or written at once: 16 bytes of them.
template <class T>
constexpr int kAtOnce = 16 / sizeof(T);

template <unsigned kValues, class T>
ATH_BOTH Values<T, kValues> load_as_they_are(const T* from) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 2 && kValues == 8) {  // which the compiler would load one by one
    const uint4 four = *reinterpret_cast<const uint4*>(from);
    Values<T, kValues> values;
    memcpy(&values, &four, sizeof four);
    return values;
  }
#endif
  return *reinterpret_cast<const Values<T, kValues>*>(from);
}

template <unsigned kValues, class T>
ATH_BOTH Values<float, kValues> load(const T* from) {
  const auto values = load_as_they_are<kValues>(from);
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

// Pixels from (y, x) on.
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

ATH_BOTH Area in_picture(const TiledPlane& plane, const Area& area) {
  const int y = most(area.y, 0), x = most(area.x, 0);
  return {y, x, most(least(area.y + area.height, plane.height) - y, 0), least(area.x + area.width, plane.width) - x};
}

ATH_BOTH Pixel first_pixel(const TiledPlane& plane, const TileOfImage& tile) {
  return {tile.y * plane.core_height - plane.before_y, tile.x * plane.core_width - plane.before_x};
}

// What is made for a tile, inside of the picture and outside, and what is its block's alone.
template <class T>
ATH_BOTH Area made_area(const TiledPlane& plane, const TileOfImage& tile) {
  const Pixel first = first_pixel(plane, tile);
  if (!kMayStream<T>) return {first.y, first.x, plane.tile_height, plane.tile_width};
  const int end = first.y + plane.tile_height,
            y = most(end - plane.made_height, tile.begin_y * plane.core_height - plane.reach);
  return {y, first.x, end - y, plane.tile_width};
}
ATH_BOTH Area core_area(const TiledPlane& plane, const TileOfImage& tile) {
  return in_picture(plane, {tile.begin_y * plane.core_height, tile.x * plane.core_width,
                            (tile.end_y - tile.begin_y) * plane.core_height, plane.core_width});
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
  return {plane.tile - from_first.place(first_pixel(plane, tile)), plane.tile_width, plane.pitch};
}
// In the tile's image of the plane, and where that begins.
ATH_BOTH Layout in_image(const TiledPlane& plane) { return {0, plane.width, static_cast<unsigned>(plane.channels)}; }
ATH_BOTH size_t begin_of_image(const TiledPlane& plane, const TileOfImage& tile) {
  return tile.image * static_cast<size_t>(plane.height) * static_cast<size_t>(plane.width) *
         static_cast<size_t>(plane.channels);
}

// Rows of neighbouring values, all threads together.
template <class T>
ATH_BOTH void copy(unsigned thread, const T* from, T* to, unsigned n_of_row, int n_rows) {
  using Part = Values<T, kAtOnce<T>>;
  const unsigned n = n_of_row * static_cast<unsigned>(n_rows);
  if (n_of_row % kAtOnce<T> == 0)
    for (unsigned i = thread * kAtOnce<T>; i < n; i += kStageThreads * kAtOnce<T>)
      *reinterpret_cast<Part*>(to + i) = *reinterpret_cast<const Part*>(from + i);
  else
    for (unsigned i = thread; i < n; i += kStageThreads) to[i] = from[i];
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
        area(in_picture(of, made_area<T>(of, here))),
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

  // Zeros to what is made for the tile outside of the picture.
  ATH_BOTH void clear_outside(unsigned thread) const {
    const Area made = made_area<T>(plane, tile);
    const int n = made.n_pixels();
    if (plane.tile == kNowhere || area.n_pixels() == n) return;
    if (kMayStream<T> && area.height == made.height) {  // of a band, mostly: only columns are outside
      const Area outside{made.y, made.x, made.height, made.width - area.width};
      for (int i = static_cast<int>(thread); i < outside.n_pixels(); i += kStageThreads) {
        const Pixel at = outside.pixel(i);
        clear({at.y, at.x < area.x ? at.x : at.x + area.width});
      }
      return;
    }
    for (int i = static_cast<int>(thread); i < n; i += kStageThreads) {
      const Pixel at = made.pixel(i);
      if (!area.holds(at)) clear(at);
    }
  }
  ATH_BOTH void clear(Pixel at) const {
    T* values = shared + of_tile.place(at);
    for (int channel = 0; channel < plane.channels; ++channel) values[channel] = T{};
  }
};

// The rows that the next tile has of this one, to where they are kept, once they are made; and from there into a tile.
template <class T>
ATH_BOTH void keep_rows(unsigned thread, const TiledPlane& plane, T* shared) {
  if (plane.kept_height == 0) return;
  const unsigned n_of_row = static_cast<unsigned>(plane.tile_width) * plane.pitch;
  const unsigned from = plane.tile + static_cast<unsigned>(plane.tile_height - plane.kept_height) * n_of_row;
  copy(thread, shared + from, shared + plane.kept, n_of_row, plane.kept_height);
}
template <class T>
ATH_BOTH void take_kept_rows(unsigned thread, const TiledPlane& plane, T* shared) {
  if (plane.kept_height == 0) return;
  const unsigned n_of_row = static_cast<unsigned>(plane.tile_width) * plane.pitch;
  const unsigned to =
      plane.tile + static_cast<unsigned>(plane.tile_height - plane.made_height - plane.kept_height) * n_of_row;
  copy(thread, shared + plane.kept, shared + to, n_of_row, plane.kept_height);
}

}  // namespace cuda
}  // namespace athsearch
