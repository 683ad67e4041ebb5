// The operations, written once: each CPU level says how wide its registers are, includes this file, and is compiled
// with its own flags. kLanes: floats a register; kPixels16, kPixels8: pixels of a tile of 16 and of 8 channels.
//
// A convolution keeps the sums of a tile, some pixels by 8 or 16 channels, in registers: per value of the window one
// load of weights a register of channels, one broadcast a pixel, and a multiply-add for each pair. Limit: multiply-adds
// a second, lanes * 2 a cycle on most cores.
#include <cstring>

#include "operations.h"

namespace athsearch {

namespace {

constexpr int kLanes8 = kLanes < 8 ? kLanes : 8;

template <int kL>
struct Of {
  typedef float Lanes __attribute__((vector_size(4 * kL)));
  typedef int32_t Ints __attribute__((vector_size(4 * kL)));
};

template <int kL>
inline typename Of<kL>::Lanes load(const float* from) {
  typename Of<kL>::Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

template <class Lanes>
inline void store(float* to, Lanes lanes) {
  std::memcpy(to, &lanes, sizeof lanes);
}

template <class Lanes>
inline Lanes larger(Lanes a, Lanes b) {
  return a > b ? a : b;
}

template <int kL, int kRegisters, int kPixels>
inline void convolve_tile(const Plane& in, const Convolution& convolution, const Plane* added, const Plane& out,
                          size_t y, size_t x, size_t channel) {
  using Lanes = typename Of<kL>::Lanes;
  Lanes sums[kPixels][kRegisters];
#pragma GCC unroll 16
  for (int r = 0; r < kRegisters; ++r) {
    const Lanes bias = load<kL>(convolution.bias + channel + kL * r);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) sums[p][r] = bias;
  }
  const size_t reach = convolution.kernel / 2, step = convolution.stride * in.channels;
  const float* weights = convolution.weights + channel;
  for (size_t ky = 0; ky < convolution.kernel; ++ky) {
    const float* window =
        in.values + (y * convolution.stride + ky) * in.row - reach * in.row + x * step - reach * in.channels;
    // A row of the window is one run of values: kernel * channels in.
    for (size_t i = 0; i < convolution.kernel * in.channels; ++i, weights += out.channels) {
      Lanes factors[kRegisters];
#pragma GCC unroll 16
      for (int r = 0; r < kRegisters; ++r) factors[r] = load<kL>(weights + kL * r);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const float value = window[static_cast<size_t>(p) * step + i];
#pragma GCC unroll 16
        for (int r = 0; r < kRegisters; ++r) sums[p][r] += value * factors[r];
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const size_t at = x + static_cast<size_t>(p);
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) {
      Lanes sum = sums[p][r];
      if (added) sum += load<kL>(added->values + y * added->row + at * added->channels + channel + kL * r);
      if (convolution.is_rectified) sum = larger(Lanes{}, sum);  // in this order NaN stays NaN
      store(out.values + y * out.row + at * out.channels + channel + kL * r, sum);
    }
  }
}

// Rows are cut into tiles; the last tile of a row begins early enough to be whole, and does some pixels twice.
template <int kL, int kRegisters, int kPixels>
inline void convolve_channels(const Plane& in, const Convolution& convolution, const Plane* added, const Plane& out,
                              size_t channel) {
  for (size_t y = 0; y < out.height; ++y) {
    size_t x = 0;
    for (; x + kPixels <= out.width; x += kPixels)
      convolve_tile<kL, kRegisters, kPixels>(in, convolution, added, out, y, x, channel);
    if (x < out.width)
      convolve_tile<kL, kRegisters, kPixels>(in, convolution, added, out, y, out.width - kPixels, channel);
  }
}

// Narrow pictures take the widest tile that they hold.
template <int kL, int kRegisters, int kPixels>
inline void convolve_some(const Plane& in, const Convolution& convolution, const Plane* added, const Plane& out,
                          size_t channel) {
  if (out.width >= kPixels)
    convolve_channels<kL, kRegisters, kPixels>(in, convolution, added, out, channel);
  else if (out.width >= 6)
    convolve_channels<kL, kRegisters, 6>(in, convolution, added, out, channel);
  else if (out.width >= 4)
    convolve_channels<kL, kRegisters, 4>(in, convolution, added, out, channel);
  else
    convolve_channels<kL, kRegisters, 1>(in, convolution, added, out, channel);
}

void convolve(const Plane& in, const Convolution& convolution, const Plane* added, const Plane& out) {
  size_t channel = 0;
  for (; channel + 16 <= out.channels; channel += 16)
    convolve_some<kLanes, 16 / kLanes, kPixels16>(in, convolution, added, out, channel);
  if (channel < out.channels) convolve_some<kLanes8, 8 / kLanes8, kPixels8>(in, convolution, added, out, channel);
}

// The 3 x 3 window as three rows combined into scratch, then three neighbours of it.
template <class Combine>
inline void pool(const Plane& in, const Plane& out, float* scratch, float scale, Combine combine) {
  using Lanes = Of<8>::Lanes;
  for (size_t y = 0; y < in.height; ++y) {
    const float* middle = in.values + y * in.row - in.channels;
    for (size_t i = 0; i < (in.width + 2) * in.channels; i += 8) {
      const Lanes outer = combine(load<8>(middle + i - in.row), load<8>(middle + i + in.row));
      store(scratch + i, combine(outer, load<8>(middle + i)));
    }
    for (size_t i = 0; i < in.width * in.channels; i += 8) {
      const Lanes outer = combine(load<8>(scratch + i), load<8>(scratch + i + 2 * in.channels));
      store(out.values + y * out.row + i, scale * combine(outer, load<8>(scratch + i + in.channels)));
    }
  }
}

void pool_maximum(const Plane& in, const Plane& out, float* scratch) {
  pool(in, out, scratch, 1.0f, [](auto a, auto b) { return larger(a, b); });
}

void pool_average(const Plane& in, const Plane& out, float* scratch) {
  pool(in, out, scratch, 1.0f / 9, [](auto a, auto b) { return a + b; });
}

// 1 / (1 + exp(-x)); exp by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf, relative error below 2e-7).
template <int kL>
inline typename Of<kL>::Lanes sigmoid(typename Of<kL>::Lanes x) {
  using Lanes = typename Of<kL>::Lanes;
  using Ints = typename Of<kL>::Ints;
  x = larger(x, Lanes{} - 87.0f);
  x = -(x < 87.0f ? x : Lanes{} + 87.0f);
  const Lanes shifted = x * 1.44269504f;
  const Ints n = __builtin_convertvector(shifted + (shifted < 0.0f ? Lanes{} - 0.5f : Lanes{} + 0.5f), Ints);
  const Lanes whole = __builtin_convertvector(n, Lanes);
  const Lanes r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Lanes p = Lanes{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints power = (n + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &power, sizeof scale);
  return 1.0f / (1.0f + p * scale);
}

void attend(const Plane& in, const Attention& attention, const Plane& out, float* scratch) {
  constexpr int kL = kLanes8;
  using Lanes = Of<kL>::Lanes;
  const size_t map_row = in.width + 2 + kMapSlack;
  float* maps[2] = {scratch, scratch + (in.height + 2) * map_row};
  std::memset(scratch, 0, 2 * (in.height + 2) * map_row * sizeof(float));
  const float share = 1.0f / static_cast<float>(attention.n_channels);
  for (size_t y = 0; y < in.height; ++y)
    for (size_t x = 0; x < in.width; ++x) {
      const float* pixel = in.values + y * in.row + x * in.channels;
      Lanes sum = load<kL>(pixel), maximum = sum;
      for (size_t channel = kL; channel < in.channels; channel += kL) {
        const Lanes more = load<kL>(pixel + channel);
        sum += more;
        maximum = larger(maximum, more);
      }
      float total = 0, largest = maximum[0];
#pragma GCC unroll 8
      for (int lane = 0; lane < kL; ++lane) {
        total += sum[lane];
        largest = largest > maximum[lane] ? largest : maximum[lane];
      }
      maps[0][(y + 1) * map_row + x + 1] = total * share;
      maps[1][(y + 1) * map_row + x + 1] = largest;
    }
  for (size_t y = 0; y < in.height; ++y)
    for (size_t x = 0; x < in.width; x += kL) {
      Lanes sum{};
      for (size_t i = 0; i < 18; ++i)
        sum += attention.weights[i] * load<kL>(maps[i / 9] + (y + i / 3 % 3) * map_row + x + i % 3);
      const Lanes gate = sigmoid<kL>(sum) + attention.offset;
      const size_t n_pixels = in.width - x < kL ? in.width - x : kL;
      for (size_t p = 0; p < n_pixels; ++p) {
        const size_t at = (x + p) * in.channels;
        for (size_t channel = 0; channel < in.channels; channel += kL)
          store(out.values + y * out.row + at + channel, gate[p] * load<kL>(in.values + y * in.row + at + channel));
      }
    }
}

void summarise(const Plane& in, float* out) {
  using Lanes = Of<8>::Lanes;
  const float share = 1.0f / static_cast<float>(in.height * in.width);
  for (size_t channel = 0; channel < in.channels; channel += 8) {
    Lanes sum{}, maximum = load<8>(in.values + channel);
    for (size_t y = 0; y < in.height; ++y)
      for (size_t x = 0; x < in.width; ++x) {
        const Lanes values = load<8>(in.values + y * in.row + x * in.channels + channel);
        sum += values;
        maximum = larger(maximum, values);
      }
    store(out + channel, sum * share);
    store(out + in.channels + channel, maximum);
  }
}

void multiply(const float* in, size_t n_in, const float* weights, const float* bias, size_t n_out, float* out) {
  using Lanes = Of<8>::Lanes;
  for (size_t first = 0; first < n_out; first += 8) {
    Lanes sums[4] = {load<8>(bias + first), Lanes{}, Lanes{}, Lanes{}};
    size_t i = 0;
    for (; i + 4 <= n_in; i += 4)
      for (size_t chain = 0; chain < 4; ++chain)
        sums[chain] += in[i + chain] * load<8>(weights + (i + chain) * n_out + first);
    for (; i < n_in; ++i) sums[0] += in[i] * load<8>(weights + i * n_out + first);
    store(out + first, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

}  // namespace

}  // namespace athsearch
