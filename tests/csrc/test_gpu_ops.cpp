// The GPU's operations of networks without a GPU: their kernels' phases on emulated blocks, against plain sums in
// double. Exits 1 with the failing case.
#include <cmath>
#include <cstdio>

#include "emulated_ops.h"

using namespace athsearch;
using namespace athsearch::cuda;

namespace {

enum class Filled { kRandom, kFewLevels, kEqual, kLowest, kWithNan };

struct Case {
  Shape shape;
  double offset;
  Filled filled;
  bool is_odd;  // x starts one value after a boundary of 16 bytes
  uint64_t seed;

  void print(const char* what) const {
    std::printf("%s: [%llu, %u, %u, %u] channels last %d offset %g filled %d odd %d seed %llu\n", what,
                static_cast<unsigned long long>(shape.n_images), shape.n_channels, shape.height, shape.width,
                shape.is_channels_last, offset, static_cast<int>(filled), is_odd,
                static_cast<unsigned long long>(seed));
  }
};

template <class T>
constexpr Dtype kDtype = Dtype::kFloat64;
template <>
constexpr Dtype kDtype<float> = Dtype::kFloat32;
template <>
constexpr Dtype kDtype<Float16> = Dtype::kFloat16;
template <>
constexpr Dtype kDtype<BFloat16> = Dtype::kBFloat16;
template <class T>
constexpr double kRounding = 3e-16;  // half a unit in the last place, relative
template <>
constexpr double kRounding<float> = 1.2e-7;
template <>
constexpr double kRounding<Float16> = 4.9e-4;
template <>
constexpr double kRounding<BFloat16> = 4e-3;

// NaN where NaN is expected, and elsewhere right to rounding and a share of what was summed.
bool is_near(double found, double expected, double rounding, double sum_rounding, double scale) {
  if (std::isnan(expected) || std::isinf(expected)) return std::isnan(found) == std::isnan(expected);
  return std::abs(found - expected) <=
         1.01 * rounding * std::abs(expected) + 16 * sum_rounding * scale + 1e-7 * (rounding > 1e-6);
}

template <class T>
std::vector<T> drawn(size_t n, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::vector<T> values(n);
  for (T& value : values) narrow(static_cast<Sum<T>>(normal(random)), value);
  return values;
}

template <class T>
bool is_attention_right(const Case& given) {
  using S = Sum<T>;
  const Shape& shape = given.shape;
  const auto n_images = static_cast<size_t>(shape.n_images), n_pixels = static_cast<size_t>(shape.n_pixels());
  const size_t n_channels = shape.n_channels, n = n_images * n_channels * n_pixels, height = shape.height,
               width = shape.width, odd = given.is_odd;
  std::mt19937_64 random(given.seed);
  std::vector<T> x = drawn<T>(n + odd, random), grad_y = drawn<T>(n + odd, random);
  const std::vector<T> grad_attention = drawn<T>(n_images * n_pixels, random);
  for (T& value : x) {
    if (given.filled == Filled::kFewLevels) narrow(static_cast<S>(random() % 3), value);
    if (given.filled == Filled::kEqual) narrow(static_cast<S>(0.75), value);
    if (given.filled == Filled::kLowest) narrow(-static_cast<S>(INFINITY), value);
    if (given.filled == Filled::kWithNan && random() % 97 == 0) narrow(static_cast<S>(NAN), value);
  }
  const std::vector<S> weight = drawn<S>(kWeights, random);
  const bool has_grad_attention = given.seed % 2 == 0;

  std::vector<T> y(n + odd), attention(n_images * n_pixels), grad_x(n + odd);
  std::vector<S> saved_maps(3 * n_images * n_pixels), grad_weight(kWeights);
  std::vector<S> partial_sums(size_t{n_attention_blocks(shape)} * kWeights, static_cast<S>(NAN));
  std::vector<int16_t> argmax(n_images * n_pixels, -1);
  const AttentionForward forward{kDtype<T>,     shape,   given.offset,     &x[odd],
                                 weight.data(), &y[odd], attention.data(), saved_maps.data(),
                                 argmax.data()};
  EmulatedOps(given.seed + 1).attention(forward);
  const AttentionBackward backward{kDtype<T>,
                                   shape,
                                   given.offset,
                                   &grad_y[odd],
                                   has_grad_attention ? grad_attention.data() : nullptr,
                                   &x[odd],
                                   weight.data(),
                                   saved_maps.data(),
                                   argmax.data(),
                                   &grad_x[odd],
                                   grad_weight.data(),
                                   partial_sums.data()};
  EmulatedOps(given.seed + 2).attention_backward(backward);

  // Nothing depends on the order of blocks and threads, nor on whether anything is saved.
  std::vector<T> y_again(n + odd), attention_again(attention.size());
  AttentionForward again = forward;
  again.y = &y_again[odd], again.attention = attention_again.data(), again.maps = nullptr, again.argmax = nullptr;
  EmulatedOps(given.seed + 3).attention(again);
  if (std::memcmp(&y[odd], &y_again[odd], n * sizeof(T)) != 0) return given.print("y depends on the order"), false;
  const std::vector<S> grad_weight_before = grad_weight;
  EmulatedOps(given.seed + 4).attention_backward(backward);
  if (std::memcmp(grad_weight.data(), grad_weight_before.data(), kWeights * sizeof(S)) != 0)
    return given.print("the weights' gradient depends on the order"), false;

  const auto at = [&](size_t image, size_t channel, size_t pixel) {
    return odd + (shape.is_channels_last ? (image * n_pixels + pixel) * n_channels + channel
                                         : (image * n_channels + channel) * n_pixels + pixel);
  };
  const double rounding = kRounding<T>, sum_rounding = kRounding<S>;
  std::vector<double> grad_weight_expected(kWeights, 0), grad_weight_scale(kWeights, 0);
  for (size_t image = 0; image < n_images; ++image) {
    // Maps with a border of zeros.
    std::vector<double> maps[2], grad_z((height + 2) * (width + 2), 0.0), scale_z(grad_z);
    maps[0] = maps[1] = grad_z;
    const auto in_map = [&](size_t row, size_t column) { return (row + 1) * (width + 2) + column + 1; };
    const auto shifted = [&](size_t place, unsigned k) { return place + k % 9 / 3 * (width + 2) + k % 3 - width - 3; };
    std::vector<size_t> largest(n_pixels, 0);
    for (size_t pixel = 0; pixel < n_pixels; ++pixel) {
      double sum = 0, maximum = widen(x[at(image, 0, pixel)]);
      for (size_t channel = 0; channel < n_channels; ++channel) {
        const double value = widen(x[at(image, channel, pixel)]);
        sum += value;
        if (value > maximum || (std::isnan(value) && !std::isnan(maximum))) maximum = value, largest[pixel] = channel;
      }
      const size_t place = in_map(pixel / width, pixel % width);
      maps[0][place] = sum / static_cast<double>(n_channels);
      maps[1][place] = maximum;
      const size_t saved = 3 * image * n_pixels + pixel;
      if (!is_near(saved_maps[saved], maps[0][place], sum_rounding, sum_rounding, 8)) return given.print("mean"), false;
      if (!is_near(saved_maps[saved + n_pixels], maximum, 0, 0, 0)) return given.print("maximum"), false;
      if (argmax[image * n_pixels + pixel] != static_cast<int16_t>(largest[pixel])) return given.print("argmax"), false;
    }
    for (size_t pixel = 0; pixel < n_pixels; ++pixel) {
      const size_t place = in_map(pixel / width, pixel % width), saved = image * n_pixels + pixel;
      double z = 0, scale = 0, product = has_grad_attention ? widen(grad_attention[saved]) : 0, product_scale = 1;
      for (unsigned k = 0; k < kWeights; ++k) {
        z += weight[k] * maps[k / 9][shifted(place, k)];
        scale += std::abs(weight[k] * maps[k / 9][shifted(place, k)]);
      }
      const double gate = 1 / (1 + std::exp(-z));
      if (!is_near(widen(attention[saved]), gate, rounding, sum_rounding, scale))
        return given.print("attention"), false;
      for (size_t channel = 0; channel < n_channels; ++channel) {
        const double value = widen(x[at(image, channel, pixel)]), grad = widen(grad_y[at(image, channel, pixel)]);
        if (!is_near(widen(y[at(image, channel, pixel)]), value * (given.offset + gate), rounding, sum_rounding,
                     (1 + scale) * std::abs(value)))
          return given.print("y"), false;
        product += grad * value;
        product_scale += std::abs(grad * value);
      }
      // The backward pass is given A as it was saved.
      const double given_gate = saved_maps[(3 * image + 2) * n_pixels + pixel];
      if (!is_near(given_gate, gate, sum_rounding, sum_rounding, scale)) return given.print("saved attention"), false;
      grad_z[place] = product * given_gate * (1 - given_gate);
      scale_z[place] = product_scale;
    }
    for (size_t pixel = 0; pixel < n_pixels; ++pixel) {
      const size_t place = in_map(pixel / width, pixel % width);
      double sums[2] = {0, 0}, scale = 1;
      for (unsigned k = 0; k < kWeights; ++k) {
        const size_t other = 2 * place - shifted(place, k);
        sums[k / 9] += weight[k] * grad_z[other];
        scale += std::abs(weight[k]) * scale_z[other];
        grad_weight_expected[k] += grad_z[place] * maps[k / 9][shifted(place, k)];
        grad_weight_scale[k] += scale_z[place] * (1 + std::abs(maps[k / 9][shifted(place, k)]));
      }
      for (size_t channel = 0; channel < n_channels; ++channel) {
        const double expected =
            widen(grad_y[at(image, channel, pixel)]) * (given.offset + saved_maps[(3 * image + 2) * n_pixels + pixel]) +
            sums[0] / static_cast<double>(n_channels) + (channel == largest[pixel] ? sums[1] : 0);
        if (!is_near(widen(grad_x[at(image, channel, pixel)]), expected, rounding, sum_rounding, scale))
          return given.print("the gradient of x"), false;
      }
    }
  }
  for (unsigned k = 0; k < kWeights; ++k)
    if (!is_near(grad_weight[k], grad_weight_expected[k], sum_rounding, sum_rounding, grad_weight_scale[k]))
      return given.print("the gradient of the weights"), false;
  return true;
}

// Small integers, whose sums are exact in float, zero among them.
template <class T>
bool is_hash_right(uint64_t n_images, unsigned n_features, unsigned n_bits, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<T> features(n_images * n_features);
  std::vector<float> weights(size_t{n_bits} * n_features), bias(n_bits);
  for (T& value : features) narrow(static_cast<float>(random() % 5) - 2, value);
  for (float& value : weights) value = static_cast<float>(random() % 3) - 1;
  for (float& value : bias) value = static_cast<float>(random() % 3) - 1;
  if (n_bits > 2) bias[2] = NAN;
  const unsigned n_words = (n_bits + 63) / 64;
  std::vector<uint64_t> words(n_images * n_words, 0xA5A5A5A5A5A5A5A5), expected(words.size(), 0);
  for (uint64_t image = 0; image < n_images; ++image)
    for (unsigned bit = 0; bit < n_bits; ++bit) {
      double logit = bias[bit];
      for (unsigned i = 0; i < n_features; ++i)
        logit += static_cast<double>(widen(features[image * n_features + i])) * weights[size_t{bit} * n_features + i];
      expected[image * n_words + bit / 64] |= uint64_t{logit > 0} << (bit % 64);
    }
  EmulatedOps(seed + 1).hash_pack(
      {kDtype<T>, n_images, n_features, n_bits, features.data(), weights.data(), bias.data(), words.data()});
  return words == expected;
}

bool same_bits(float a, float b) { return bits_of(a) == bits_of(b); }

// Every number goes through a wider type and back; halfway numbers go to the even neighbour, others to the nearest.
template <class T>
bool is_rounding_right(uint32_t infinity) {
  for (uint32_t bits = 0; bits < infinity; ++bits) {
    const float low = widen(T{static_cast<uint16_t>(bits)}), high = widen(T{static_cast<uint16_t>(bits + 1)});
    if (narrowed<T>(low).bits != bits || narrowed<T>(-low).bits != (bits | 0x8000)) return false;
    if (bits + 1 == infinity) break;
    const float middle = low + (high - low) / 2;
    if (narrowed<T>(middle).bits != bits + bits % 2) return false;
    if (narrowed<T>(std::nextafterf(middle, low)).bits != bits) return false;
    if (narrowed<T>(std::nextafterf(middle, high)).bits != bits + 1) return false;
  }
  const T infinite{static_cast<uint16_t>(infinity)};
  return same_bits(widen(infinite), INFINITY) && narrowed<T>(INFINITY).bits == infinity &&
         narrowed<T>(3.4e38f).bits >= infinity - 1 && std::isnan(widen(narrowed<T>(NAN)));
}

template <class T>
bool are_all_right(const std::vector<Case>& cases) {
  for (const Case& given : cases)
    if (!is_attention_right<T>(given)) return std::printf("type %d\n", static_cast<int>(kDtype<T>)), false;
  uint64_t seed = 0;
  if constexpr (!std::is_same<T, double>::value)
    for (const unsigned n_bits : {1u, 31u, 32u, 33u, 63u, 64u, 65u, 200u})
      for (const uint64_t n_images : {1, 7, 9, 65})
        for (const unsigned n_features : {1u, 31u, 65u})
          if (!is_hash_right<T>(n_images, n_features, n_bits, ++seed))
            return std::printf("hash_pack: %u bits of %u features\n", n_bits, n_features), false;
  return true;
}

}  // namespace

int main() {
  if (!is_rounding_right<Float16>(0x7C00) || !is_rounding_right<BFloat16>(0x7F80)) return std::puts("rounding"), 1;
  if (narrowed<Float16>(65519.9f).bits != 0x7BFF || narrowed<Float16>(65520.0f).bits != 0x7C00)
    return std::puts("rounding of large numbers"), 1;
  std::vector<Case> cases;
  uint64_t seed = 0;
  for (const unsigned n_channels : {1u, 5u, 8u, 16u, 24u, 40u})
    for (const auto& size :
         {std::pair(1u, 1u), std::pair(1u, 40u), std::pair(37u, 1u), std::pair(5u, 7u), std::pair(17u, 33u)})
      for (const bool is_channels_last : {false, true}) {
        if (n_channels == 40 && size.first > 5) continue;
        const auto filled = static_cast<Filled>(seed % 5);
        cases.push_back({{1 + seed % 3, n_channels, size.first, size.second, is_channels_last},
                         static_cast<double>(seed / 2 % 2),
                         filled,
                         seed % 7 == 0,
                         seed});
        ++seed;
      }
  cases.push_back({{1, 300, 3, 3, true}, 1, Filled::kFewLevels, false, 1000});  // all lanes of a warp for a pixel
  cases.push_back({{1, 301, 3, 3, true}, 1, Filled::kRandom, false, 1001});
  if (!are_all_right<Float16>(cases) || !are_all_right<BFloat16>(cases) || !are_all_right<float>(cases) ||
      !are_all_right<double>(cases))
    return 1;
  // More tiles than blocks, and as many images as need the kernel for many.
  if (!is_attention_right<float>({{kMostAttentionBlocks + 300, 2, 1, 1, false}, 1, Filled::kRandom, false, 2000}))
    return 1;
  if (!is_hash_right<Float16>(64 * 63 + 5, 33, 130, 3000)) return std::puts("hash_pack of many images"), 1;
  return 0;
}
