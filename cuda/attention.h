// What a thread of spatial attention does, phase by phase, forward and backward: A = sigmoid(conv3x3([mean over
// channels, maximum over channels])), y = x (offset + A).
//
// A block works on a tile of pixels after the other. For the tile and the pixels around it, its halo, threads sum over
// channels; the 3x3 filter then needs shared memory alone. So no block waits for another one, and x is read from the
// memory once: the second time, a tile later at most, the caches should still have it.
//
// A pixel's channels are shared by 2^log_parts neighbouring lanes, one where pixels lie side by side, more where
// channels do; what the lanes found is joined in a fixed order. Everything is summed in a fixed order.
#pragma once

#include "floats.h"

namespace athsearch {
namespace cuda {
namespace attention {

constexpr unsigned kAttentionThreads = 256;
constexpr unsigned kMostTileHeight = 16, kMostTileWidth = 32;
constexpr unsigned kMostPixels = kMostTileHeight * kMostTileWidth;
constexpr unsigned kMostHaloPixels = (kMostTileHeight + 2) * (kMostTileWidth + 2);
constexpr unsigned kMostAttentionBlocks = 4096;
constexpr unsigned kMostChannels = 32767;
constexpr unsigned kWeights = 18;  // [statistic, row, column]

// Of x, y and their gradients, which all lie in memory alike: pixel after pixel or channel after channel.
struct Shape {
  uint64_t n_images;
  unsigned n_channels, height, width;
  bool is_channels_last;

  ATH_BOTH uint64_t n_pixels() const { return uint64_t{height} * width; }
};

// Equal tiles, as few as cover an image. There are fewer than 2^31 in all.
struct Tiling {
  unsigned height, width;  // of a tile
  unsigned n_down, n_across;
  unsigned n_tiles;  // of all images

  ATH_BOTH unsigned halo_width() const { return width + 2; }
  ATH_BOTH unsigned n_halo_pixels() const { return (height + 2) * (width + 2); }
  ATH_BOTH unsigned n_pixels() const { return height * width; }
};

inline uint64_t n_tiles_of(const Shape& shape) {
  const uint64_t n_down = (uint64_t{shape.height} + kMostTileHeight - 1) / kMostTileHeight;
  return shape.n_images * n_down * ((uint64_t{shape.width} + kMostTileWidth - 1) / kMostTileWidth);
}
inline Tiling tiling_of(const Shape& shape) {
  const unsigned n_down = (shape.height - 1) / kMostTileHeight + 1, n_across = (shape.width - 1) / kMostTileWidth + 1;
  return {(shape.height - 1) / n_down + 1, (shape.width - 1) / n_across + 1, n_down, n_across,
          static_cast<unsigned>(n_tiles_of(shape))};
}
// Blocks of the launch. The gradient of the weights is summed block by block: the number depends on the shape alone.
inline unsigned n_attention_blocks(const Shape& shape) {
  return static_cast<unsigned>(smaller(n_tiles_of(shape), kMostAttentionBlocks));
}

// Lanes that share a pixel: a power of two, no more than there are reads of `width` channels.
inline unsigned log_parts_of(const Shape& shape, unsigned width) {
  unsigned log_parts = 0;
  while (shape.is_channels_last && log_parts < 5 && (width << (log_parts + 1)) <= shape.n_channels) ++log_parts;
  return log_parts;
}

// Pointers as their owner has them; any of those to be saved may be null, and so may grad_attention.
struct AttentionForward {
  Dtype dtype;
  Shape shape;
  double offset;
  const void *x, *weight;  // weight [2, 3, 3] in the type of sums
  void *y, *attention;     // as x; [B, 1, H, W]
  void* maps;              // [B, 3, H, W] in the type of sums: mean, maximum and A
  int16_t* argmax;         // [B, 1, H, W]
};
struct AttentionBackward {
  Dtype dtype;
  Shape shape;
  double offset;
  const void *grad_y, *grad_attention, *x, *weight, *maps;
  const int16_t* argmax;
  void *grad_x, *grad_weight;
  void* partial_sums;  // [n_attention_blocks, 18] in the type of sums
};

// The same with types, as the kernels take it.
template <class T>
struct Forward {
  Shape shape;
  Tiling tiling;
  unsigned log_parts;
  Sum<T> offset;
  const T* x;
  const Sum<T>* weight;
  T *y, *attention;
  Sum<T>* maps;
  int16_t* argmax;

  Forward(const AttentionForward& of, unsigned n_values)
      : shape(of.shape),
        tiling(tiling_of(of.shape)),
        log_parts(log_parts_of(of.shape, n_values)),
        offset(static_cast<Sum<T>>(of.offset)),
        x(static_cast<const T*>(of.x)),
        weight(static_cast<const Sum<T>*>(of.weight)),
        y(static_cast<T*>(of.y)),
        attention(static_cast<T*>(of.attention)),
        maps(static_cast<Sum<T>*>(of.maps)),
        argmax(of.argmax) {}
};
template <class T>
struct Backward {
  Shape shape;
  Tiling tiling;
  unsigned log_parts;
  Sum<T> offset;
  const T *grad_y, *grad_attention, *x;
  const Sum<T>* weight;
  const Sum<T>* maps;
  const int16_t* argmax;
  T* grad_x;
  Sum<T>* partial_sums;

  Backward(const AttentionBackward& of, unsigned n_values)
      : shape(of.shape),
        tiling(tiling_of(of.shape)),
        log_parts(log_parts_of(of.shape, n_values)),
        offset(static_cast<Sum<T>>(of.offset)),
        grad_y(static_cast<const T*>(of.grad_y)),
        grad_attention(static_cast<const T*>(of.grad_attention)),
        x(static_cast<const T*>(of.x)),
        weight(static_cast<const Sum<T>*>(of.weight)),
        maps(static_cast<const Sum<T>*>(of.maps)),
        argmax(of.argmax),
        grad_x(static_cast<T*>(of.grad_x)),
        partial_sums(static_cast<Sum<T>*>(of.partial_sums)) {}
};

// Channels read at once: 16 bytes of them where channels lie side by side and every pixel's begin at such a boundary,
// else one.
template <class T>
constexpr unsigned kWide = 16 / sizeof(T);
template <class T, class... Pointers>
bool is_wide(const Shape& shape, Pointers... pointers) {
  const bool are_aligned = ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
  return shape.is_channels_last && shape.n_channels % kWide<T> == 0 && are_aligned;
}

struct Tile {
  uint64_t image;
  unsigned top, left;
};
ATH_BOTH Tile tile_of(const Tiling& tiling, unsigned number) {
  const unsigned line = number / tiling.n_across;
  return {line / tiling.n_down, line % tiling.n_down * tiling.height, number % tiling.n_across * tiling.width};
}

// A pixel of a tile, or of its halo, in the image.
struct Pixel {
  unsigned row, column;
  bool is_there;
  ATH_BOTH uint64_t place(const Shape& shape) const { return uint64_t{row} * shape.width + column; }
};
// Where a pixel stands in n_maps maps of all images: in the given one of them.
ATH_BOTH uint64_t map_place(const Shape& shape, const Tile& tile, const Pixel& pixel, unsigned n_maps, unsigned map) {
  return (tile.image * n_maps + map) * shape.n_pixels() + pixel.place(shape);
}
ATH_BOTH Pixel halo_pixel(const Shape& shape, const Tiling& tiling, const Tile& tile, unsigned place) {
  // One less than 0 is a large number, and not there either.
  const unsigned row = tile.top + place / tiling.halo_width() - 1, column = tile.left + place % tiling.halo_width() - 1;
  return {row, column, row < shape.height && column < shape.width};
}
ATH_BOTH Pixel tile_pixel(const Shape& shape, const Tiling& tiling, const Tile& tile, unsigned place) {
  const unsigned row = tile.top + place / tiling.width, column = tile.left + place % tiling.width;
  return {row, column, row < shape.height && column < shape.width};
}
// Where a pixel of the tile stands in the halo's arrays.
ATH_BOTH unsigned halo_place(const Tiling& tiling, unsigned place) {
  return (place / tiling.width + 1) * tiling.halo_width() + place % tiling.width + 1;
}

// Where the channels of a pixel are.
struct Channels {
  uint64_t begin, stride;
  ATH_BOTH uint64_t at(unsigned channel) const { return begin + channel * stride; }
};
template <unsigned kValues>
ATH_BOTH Channels channels_of(const Shape& shape, const Tile& tile, const Pixel& pixel) {
  const uint64_t image = tile.image * shape.n_pixels(), place = pixel.place(shape);
  if (kValues > 1 || shape.is_channels_last) return {(image + place) * shape.n_channels, 1};
  return {image * shape.n_channels + place, shape.n_pixels()};
}

// Channels that a lane reads together: side by side, in one read, or `step` apart, one read each.
template <unsigned kN, bool kIsOneRead>
struct Group {
  static constexpr unsigned n = kN;
  unsigned first, step;
  ATH_BOTH unsigned channel(unsigned i) const { return kIsOneRead ? first + i : first + i * step; }
};
constexpr unsigned kReadsAtOnce = 8;

// Calls body(group) for the channels of a lane.
template <unsigned kValues, class Body>
ATH_BOTH void each_group(const Shape& shape, unsigned part, unsigned log_parts, Body body) {
  const unsigned step = kValues << log_parts;
  unsigned channel = part * kValues;
  if constexpr (kValues == 1)
    for (; channel + (kReadsAtOnce - 1) * step < shape.n_channels; channel += kReadsAtOnce * step)
      body(Group<kReadsAtOnce, false>{channel, step});
  for (; channel < shape.n_channels; channel += step) body(Group<kValues, true>{channel, step});
}

// What no one writes meanwhile: the compiler may then read before an earlier result is written.
template <class V>
ATH_BOTH V read_constant(const void* from) {
  V values;
#ifdef __CUDA_ARCH__
  if constexpr (sizeof values == 16) {
    const uint4 bits = __ldg(static_cast<const uint4*>(from));
    memcpy(&values, &bits, sizeof bits);
  } else if constexpr (sizeof values == 8) {
    const uint2 bits = __ldg(static_cast<const uint2*>(from));
    memcpy(&values, &bits, sizeof bits);
  } else if constexpr (sizeof values == 4) {
    const unsigned bits = __ldg(static_cast<const unsigned*>(from));
    memcpy(&values, &bits, sizeof bits);
  } else {
    const unsigned short bits = __ldg(static_cast<const unsigned short*>(from));
    memcpy(&values, &bits, sizeof bits);
  }
#else
  memcpy(&values, from, sizeof values);
#endif
  return values;
}
template <class T, unsigned kN>
ATH_BOTH Values<T, kN> read(const T* from, const Channels& channels, const Group<kN, true>& group) {
  return read_constant<Values<T, kN>>(from + channels.at(group.first));
}
template <class T, unsigned kN>
ATH_BOTH Values<T, kN> read(const T* from, const Channels& channels, const Group<kN, false>& group) {
  Values<T, kN> values;
  ATH_UNROLL
  for (unsigned i = 0; i < kN; ++i) values.at[i] = read_constant<T>(from + channels.at(group.channel(i)));
  return values;
}
template <class T, unsigned kN>
ATH_BOTH void write(T* to, const Channels& channels, const Group<kN, true>& group, const Values<T, kN>& values) {
  *reinterpret_cast<Values<T, kN>*>(to + channels.at(group.first)) = values;
}
template <class T, unsigned kN>
ATH_BOTH void write(T* to, const Channels& channels, const Group<kN, false>& group, const Values<T, kN>& values) {
  ATH_UNROLL
  for (unsigned i = 0; i < kN; ++i) to[channels.at(group.channel(i))] = values.at[i];
}

// The statistics of some of a pixel's channels. NaN is larger than any number; of equal channels the lowest counts.
template <class S>
struct Statistics {
  S sum, maximum;
  unsigned channel;

  ATH_BOTH void add(S value, unsigned of_channel) {
    sum += value;
    if (value > maximum || (value != value && maximum == maximum)) {
      maximum = value;
      channel = of_channel;
    }
  }
};
template <class S>
ATH_BOTH Statistics<S> joined(const Statistics<S>& a, const Statistics<S>& b) {
  const bool both_nan = a.maximum != a.maximum && b.maximum != b.maximum;
  const bool is_equal = a.maximum == b.maximum || both_nan;
  const bool is_b = is_equal ? b.channel < a.channel : !(a.maximum > b.maximum || a.maximum != a.maximum);
  return {a.sum + b.sum, is_b ? b.maximum : a.maximum, is_b ? b.channel : a.channel};
}

// What a block of the forward pass keeps in shared memory.
template <class S>
struct ForwardShared {
  S weight[kWeights];
  S statistics[2][kMostHaloPixels];
  S gate[kMostPixels];  // offset + A
};

template <class T>
ATH_BOTH void load_weights(unsigned thread, const Sum<T>* weight, Sum<T>* shared) {
  if (thread < kWeights) shared[thread] = weight[thread];
}

// Forward, phase 1, for item = thread, thread + 256, ... below n_halo_pixels << log_parts, whole warps at a time: a
// lane's part of a pixel's statistics, zeros for what is not there. Lanes then join theirs, and the first stores.
template <class T, unsigned kValues>
ATH_BOTH Statistics<Sum<T>> read_statistics(const Forward<T>& call, const Tile& tile, unsigned item) {
  using S = Sum<T>;
  const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
  const Pixel pixel = halo_pixel(call.shape, call.tiling, tile, place);
  if (place >= call.tiling.n_halo_pixels() || !pixel.is_there) return {0, 0, 0};
  const Channels channels = channels_of<kValues>(call.shape, tile, pixel);
  Statistics<S> found{0, -static_cast<S>(INFINITY), part * kValues};
  each_group<kValues>(call.shape, part, call.log_parts, [&](const auto& group) {
    const auto values = read(call.x, channels, group);
    ATH_UNROLL
    for (unsigned i = 0; i < group.n; ++i) found.add(widen(values.at[i]), group.channel(i));
  });
  return found;
}
template <class T>
ATH_BOTH void store_statistics(const Forward<T>& call, const Tile& tile, unsigned item, const Statistics<Sum<T>>& found,
                               ForwardShared<Sum<T>>& shared) {
  const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
  if (place >= call.tiling.n_halo_pixels() || part != 0) return;
  const Sum<T> mean = found.sum / static_cast<Sum<T>>(call.shape.n_channels);
  shared.statistics[0][place] = mean;
  shared.statistics[1][place] = found.maximum;
  const unsigned row = place / call.tiling.halo_width(), column = place % call.tiling.halo_width();
  const bool is_inside = row > 0 && row <= call.tiling.height && column > 0 && column <= call.tiling.width;
  const Pixel pixel = halo_pixel(call.shape, call.tiling, tile, place);
  if (call.maps == nullptr || !is_inside || !pixel.is_there) return;
  call.maps[map_place(call.shape, tile, pixel, 3, 0)] = mean;
  call.maps[map_place(call.shape, tile, pixel, 3, 1)] = found.maximum;
  call.argmax[map_place(call.shape, tile, pixel, 1, 0)] = static_cast<int16_t>(found.channel);
}

// Forward, phase 2: the gates of the tile's pixels.
template <class T>
ATH_BOTH void gate_pixels(unsigned thread, const Forward<T>& call, const Tile& tile, ForwardShared<Sum<T>>& shared) {
  for (unsigned place = thread; place < call.tiling.n_pixels(); place += kAttentionThreads) {
    const Pixel pixel = tile_pixel(call.shape, call.tiling, tile, place);
    if (!pixel.is_there) continue;
    const unsigned centre = halo_place(call.tiling, place);
    Sum<T> z = 0;
    ATH_UNROLL
    for (unsigned k = 0; k < kWeights; ++k) {
      const unsigned there = centre + (k % 9 / 3) * call.tiling.halo_width() + k % 3 - call.tiling.halo_width() - 1;
      z += shared.weight[k] * shared.statistics[k / 9][there];
    }
    const Sum<T> attention = 1 / (1 + std::exp(-z));
    shared.gate[place] = call.offset + attention;
    call.attention[map_place(call.shape, tile, pixel, 1, 0)] = narrowed<T>(attention);
    if (call.maps != nullptr) call.maps[map_place(call.shape, tile, pixel, 3, 2)] = attention;
  }
}

// Forward, phase 3: y = x times the gate.
template <class T, unsigned kValues>
ATH_BOTH void apply_gates(unsigned thread, const Forward<T>& call, const Tile& tile,
                          const ForwardShared<Sum<T>>& shared) {
  const unsigned n_items = call.tiling.n_pixels() << call.log_parts;
  for (unsigned item = thread; item < n_items; item += kAttentionThreads) {
    const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
    const Pixel pixel = tile_pixel(call.shape, call.tiling, tile, place);
    if (!pixel.is_there) continue;
    const Channels channels = channels_of<kValues>(call.shape, tile, pixel);
    const Sum<T> gate = shared.gate[place];
    each_group<kValues>(call.shape, part, call.log_parts, [&](const auto& group) {
      auto values = read(call.x, channels, group);
      ATH_UNROLL
      for (unsigned i = 0; i < group.n; ++i) values.at[i] = narrowed<T>(widen(values.at[i]) * gate);
      write(call.y, channels, group, values);
    });
  }
}

constexpr unsigned kTapGroups = 6;  // a row of one statistic's weights each, for one thread
constexpr unsigned kTapSlices = 2 * kMostTileHeight;

// What a block of the backward pass keeps in shared memory. The gradients of z, the argument of the sigmoid, and the
// statistics are zero outside the image.
template <class S>
struct BackwardShared {
  S weight[kWeights];
  S grad_z[kMostHaloPixels];
  S statistics[2][kMostHaloPixels];
  S gate[kMostPixels];
  S grad_statistics[2][kMostPixels];  // that of the mean is a channel's share
  S tap_sums[kTapSlices][kWeights];
};

// A thread's sums for three neighbouring weights, over all tiles of the block.
template <class S>
struct TapSums {
  S at[3];
};

// Backward, phase 1, for items as in the forward pass: a lane's part of the sum over channels of grad_y x.
template <class T, unsigned kValues>
ATH_BOTH Sum<T> read_product(const Backward<T>& call, const Tile& tile, unsigned item) {
  const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
  const Pixel pixel = halo_pixel(call.shape, call.tiling, tile, place);
  if (place >= call.tiling.n_halo_pixels() || !pixel.is_there) return 0;
  const Channels channels = channels_of<kValues>(call.shape, tile, pixel);
  Sum<T> sum = 0;
  each_group<kValues>(call.shape, part, call.log_parts, [&](const auto& group) {
    const auto x = read(call.x, channels, group), grad_y = read(call.grad_y, channels, group);
    ATH_UNROLL
    for (unsigned i = 0; i < group.n; ++i) sum += widen(grad_y.at[i]) * widen(x.at[i]);
  });
  return sum;
}
template <class T>
ATH_BOTH void store_grad_z(const Backward<T>& call, const Tile& tile, unsigned item, Sum<T> product,
                           BackwardShared<Sum<T>>& shared) {
  const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
  if (place >= call.tiling.n_halo_pixels() || part != 0) return;
  const Pixel pixel = halo_pixel(call.shape, call.tiling, tile, place);
  Sum<T> grad_z = 0, mean = 0, maximum = 0;
  if (pixel.is_there) {
    const Sum<T> attention = call.maps[map_place(call.shape, tile, pixel, 3, 2)];
    if (call.grad_attention != nullptr) product += widen(call.grad_attention[map_place(call.shape, tile, pixel, 1, 0)]);
    grad_z = product * attention * (1 - attention);
    mean = call.maps[map_place(call.shape, tile, pixel, 3, 0)];
    maximum = call.maps[map_place(call.shape, tile, pixel, 3, 1)];
  }
  shared.grad_z[place] = grad_z;
  shared.statistics[0][place] = mean;
  shared.statistics[1][place] = maximum;
}

// Backward, phase 2: the gradients of the tile's statistics, and the tile's part of the weights' gradient.
template <class T>
ATH_BOTH void filter_gradients(unsigned thread, const Backward<T>& call, const Tile& tile,
                               BackwardShared<Sum<T>>& shared) {
  for (unsigned place = thread; place < call.tiling.n_pixels(); place += kAttentionThreads) {
    const Pixel pixel = tile_pixel(call.shape, call.tiling, tile, place);
    if (!pixel.is_there) continue;
    const unsigned centre = halo_place(call.tiling, place);
    Sum<T> sums[2] = {0, 0};
    ATH_UNROLL
    for (unsigned k = 0; k < kWeights; ++k) {  // weight k met this pixel from the other side
      const unsigned there = centre - (k % 9 / 3) * call.tiling.halo_width() - k % 3 + call.tiling.halo_width() + 1;
      sums[k / 9] += shared.weight[k] * shared.grad_z[there];
    }
    shared.grad_statistics[0][place] = sums[0] / static_cast<Sum<T>>(call.shape.n_channels);
    shared.grad_statistics[1][place] = sums[1];
    shared.gate[place] = call.offset + call.maps[map_place(call.shape, tile, pixel, 3, 2)];
  }
}
template <class T>
ATH_BOTH void add_taps(unsigned thread, const Backward<T>& call, const Tile& tile, const BackwardShared<Sum<T>>& shared,
                       TapSums<Sum<T>>& sums) {
  const unsigned group = thread % kTapGroups, slice = thread / kTapGroups, row = slice / 2;
  if (slice >= kTapSlices || row >= call.tiling.height || tile.top + row >= call.shape.height) return;
  const unsigned half = (call.tiling.width + 1) / 2, begin = slice % 2 * half;
  const unsigned n_there = static_cast<unsigned>(smaller(call.tiling.width, call.shape.width - tile.left));
  const unsigned end = static_cast<unsigned>(smaller(n_there, begin + half));
  const Sum<T>* const grad_z = shared.grad_z + (row + 1) * call.tiling.halo_width() + 1;
  const Sum<T>* const statistics = shared.statistics[group / 3] + (row + group % 3) * call.tiling.halo_width();
  for (unsigned column = begin; column < end; ++column) {
    const Sum<T> of_pixel = grad_z[column];
    ATH_UNROLL
    for (unsigned i = 0; i < 3; ++i) sums.at[i] += of_pixel * statistics[column + i];
  }
}

// Backward, phase 3: the gradient of x.
template <class T, unsigned kValues>
ATH_BOTH void write_gradient(unsigned thread, const Backward<T>& call, const Tile& tile,
                             const BackwardShared<Sum<T>>& shared) {
  const unsigned n_items = call.tiling.n_pixels() << call.log_parts;
  for (unsigned item = thread; item < n_items; item += kAttentionThreads) {
    const unsigned place = item >> call.log_parts, part = item & ((1u << call.log_parts) - 1);
    const Pixel pixel = tile_pixel(call.shape, call.tiling, tile, place);
    if (!pixel.is_there) continue;
    const Channels channels = channels_of<kValues>(call.shape, tile, pixel);
    const auto argmax = static_cast<unsigned>(call.argmax[map_place(call.shape, tile, pixel, 1, 0)]);
    const Sum<T> gate = shared.gate[place], of_mean = shared.grad_statistics[0][place];
    const Sum<T> of_maximum = shared.grad_statistics[1][place];
    each_group<kValues>(call.shape, part, call.log_parts, [&](const auto& group) {
      auto values = read(call.grad_y, channels, group);
      ATH_UNROLL
      for (unsigned i = 0; i < group.n; ++i) {
        Sum<T> sum = widen(values.at[i]) * gate + of_mean;
        if (group.channel(i) == argmax) sum += of_maximum;
        values.at[i] = narrowed<T>(sum);
      }
      write(call.grad_x, channels, group, values);
    });
  }
}

// Backward, last phases: the block's part of the weights' gradient.
template <class S>
ATH_BOTH void store_taps(unsigned thread, const TapSums<S>& sums, BackwardShared<S>& shared) {
  const unsigned group = thread % kTapGroups, slice = thread / kTapGroups;
  if (slice >= kTapSlices) return;
  for (unsigned i = 0; i < 3; ++i) shared.tap_sums[slice][3 * group + i] = sums.at[i];
}
template <class S>
ATH_BOTH void sum_taps(unsigned thread, unsigned block, const BackwardShared<S>& shared, S* partial_sums) {
  if (thread >= kWeights) return;
  S sum = 0;
  for (unsigned slice = 0; slice < kTapSlices; ++slice) sum += shared.tap_sums[slice][thread];
  partial_sums[block * kWeights + thread] = sum;
}

// The sum over blocks, by one block in two phases.
constexpr unsigned kSumSlices = kAttentionThreads / kWeights;

template <class S>
ATH_BOTH void sum_some_blocks(unsigned thread, const S* partial_sums, unsigned n_blocks,
                              S (&shared)[kSumSlices][kWeights]) {
  const unsigned weight = thread % kWeights, slice = thread / kWeights;
  if (slice >= kSumSlices) return;
  S sum = 0;
  for (unsigned block = slice; block < n_blocks; block += kSumSlices) sum += partial_sums[block * kWeights + weight];
  shared[slice][weight] = sum;
}
template <class S>
ATH_BOTH void sum_slices(unsigned thread, const S (&shared)[kSumSlices][kWeights], S* grad_weight) {
  if (thread >= kWeights) return;
  S sum = 0;
  for (unsigned slice = 0; slice < kSumSlices; ++slice) sum += shared[slice][thread];
  grad_weight[thread] = sum;
}

}  // namespace attention
}  // namespace cuda
}  // namespace athsearch
