// The GPU's network without a GPU: its kernels' phases on an emulated device, against each step in plain 64-bit loops.
// Exits 1 with the failing case.
#include <cmath>
#include <cstdio>

#include "../../cuda/network.h"
#include "emulated_device.h"

using namespace athsearch;
using namespace athsearch::cuda;

namespace {

using Plane64 = std::vector<double>;  // [height, width, channels]

// The plain way: a step after the other over whole planes, with windows cut off at the edge. Rounded: with weights, and
// what is kept of planes and maps, as the nearest 16-bit floats.
class PlainNetwork {
 public:
  PlainNetwork(const Description& description, bool is_rounded) : description_(description), is_rounded_(is_rounded) {}

  std::vector<double> logits(const uint8_t* square) {
    planes_.assign(description_.shapes().size(), {});
    const size_t n_pixels = description_.size() * description_.size();
    for (size_t i = 0; i < 3 * n_pixels; ++i)
      planes_[0].push_back(
          rounded(description_.values()[256 * (i % 3) + square[i / 3 * 3 + description_.order()[i % 3]]]));
    std::vector<double> features;
    for (const Description::Step& step : description_.steps()) {
      const Description::Shape shape = description_.shapes()[step.in];
      const Plane64& in = planes_[step.in];
      switch (step.kind) {
        case Description::Step::Kind::kConvolve:
          convolve(step);
          break;
        case Description::Step::Kind::kPoolMaximum:
        case Description::Step::Kind::kPoolAverage:
          pool(step);
          break;
        case Description::Step::Kind::kAttend:
          attend(step);
          break;
        case Description::Step::Kind::kFlatten:
          for (size_t channel = 0; channel < step.n_channels; ++channel)
            for (size_t pixel = 0; pixel < shape.height * shape.width; ++pixel)
              features.push_back(in[pixel * shape.channels + channel]);
          break;
        case Description::Step::Kind::kSummarise:
          for (const bool is_maximum : {false, true})
            for (size_t channel = 0; channel < shape.channels; ++channel) {
              double sum = 0, maximum = in[channel];
              for (size_t pixel = 0; pixel < shape.height * shape.width; ++pixel) {
                sum += in[pixel * shape.channels + channel];
                maximum = std::max(maximum, in[pixel * shape.channels + channel]);
              }
              features.push_back(is_maximum ? maximum : sum / static_cast<double>(shape.height * shape.width));
            }
      }
    }
    std::vector<double> logits;
    for (size_t bit = 0; bit < description_.bits(); ++bit) {
      logits.push_back(static_cast<double>(description_.last_bias()[bit]));
      for (size_t i = 0; i < features.size(); ++i)
        logits[bit] +=
            features[i] * static_cast<double>(description_.last_weights()[i * description_.last_bias().size() + bit]);
    }
    return logits;
  }

 private:
  double rounded(double value) const {
    return is_rounded_ ? static_cast<double>(widen(narrowed<Float16>(static_cast<float>(value)))) : value;
  }
  double rounded(float value) const { return rounded(static_cast<double>(value)); }

  // The value at (y, x), which may lie outside, where there are zeros.
  double at(size_t plane, size_t y, size_t x, size_t channel) const {
    const Description::Shape& shape = description_.shapes()[plane];
    if (y >= shape.height || x >= shape.width) return 0;  // -1 is far outside too
    return planes_[plane][(y * shape.width + x) * shape.channels + channel];
  }

  template <class Value>
  void fill(size_t plane, Value value) {
    const Description::Shape& shape = description_.shapes()[plane];
    for (size_t y = 0; y < shape.height; ++y)
      for (size_t x = 0; x < shape.width; ++x)
        for (size_t channel = 0; channel < shape.channels; ++channel) {
          const double exact = value(y, x, channel);
          planes_[plane].push_back(plane == description_.steps().back().in ? exact : rounded(exact));
        }
  }

  void convolve(const Description::Step& step) {
    const size_t n_in = description_.shapes()[step.in].channels, n_out = description_.shapes()[step.out].channels;
    fill(step.out, [&](size_t y, size_t x, size_t channel) {
      double sum = static_cast<double>(step.bias[channel]);
      for (size_t i = 0; i < step.kernel * step.kernel * n_in; ++i) {
        const size_t ky = i / n_in / step.kernel, kx = i / n_in % step.kernel, reach = step.kernel / 2;
        sum += rounded(step.weights[i * n_out + channel]) *
               at(step.in, y * step.stride + ky - reach, x * step.stride + kx - reach, i % n_in);
      }
      if (step.has_added) sum += at(step.added, y, x, channel);
      return step.is_rectified ? std::max(0.0, sum) : sum;
    });
  }

  void pool(const Description::Step& step) {
    const bool is_maximum = step.kind == Description::Step::Kind::kPoolMaximum;
    fill(step.out, [&](size_t y, size_t x, size_t channel) {
      double pooled = 0;
      for (size_t i = 0; i < 9; ++i) {
        const double value = at(step.in, y + i / 3 - 1, x + i % 3 - 1, channel);
        pooled = is_maximum ? std::max(pooled, value) : pooled + value / 9;
      }
      return pooled;
    });
  }

  void attend(const Description::Step& step) {
    fill(step.out, [&](size_t y, size_t x, size_t channel) {
      double sum = 0;
      for (size_t i = 0; i < 9; ++i) {
        double mean = 0, maximum = 0;
        for (size_t c = 0; c < step.n_channels; ++c) {
          const double value = at(step.in, y + i / 3 - 1, x + i % 3 - 1, c);
          mean += value / static_cast<double>(step.n_channels);
          maximum = std::max(maximum, value);
        }
        sum +=
            static_cast<double>(step.weights[i]) * rounded(mean) + static_cast<double>(step.weights[9 + i]) * maximum;
      }
      return at(step.in, y, x, channel) * rounded(1 / (1 + std::exp(-sum)) + static_cast<double>(step.offset));
    });
  }

  const Description& description_;
  bool is_rounded_;
  std::vector<Plane64> planes_;
};

constexpr size_t kLarge = 1000;  // all of a plane

struct Case {
  Dtype dtype;
  char kind;  // the networks' last letters; r: a residual over three convolutions
  size_t size, bits, n_images, n_tile_bytes;
  uint64_t seed;

  void print(const char* what) const {
    std::printf("%s: float%d ath-%c size %zu bits %zu n_images %zu n_tile_bytes %zu seed %llu\n", what,
                dtype == Dtype::kFloat16 ? 16 : 32, kind, size, bits, n_images, n_tile_bytes,
                static_cast<unsigned long long>(seed));
  }
};

// A plane, its side, and its channels without the filling.
struct Named {
  size_t number, side, channels;
};

size_t filled(size_t channels) { return (channels + 7) / 8 * 8; }

// The networks of python/athsearch/model/inference.py with fewer channels, and random weights.
class Builder {
 public:
  Builder(cuda::Network& network, uint64_t seed) : network_(network), random_(seed) {}

  void build(char kind, size_t bits) {
    if (kind == 's')
      build_s(bits);
    else if (kind == 'r')
      build_long_residual(bits);
    else
      build_residual(bits, kind == 'l');
  }

 private:
  std::vector<float> draw(size_t n, float deviation) {
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> values(n);
    for (float& value : values) value = normal(random_);
    return values;
  }

  Named plane(size_t side, size_t channels) {
    return {network_.add_plane(side, side, filled(channels)), side, channels};
  }

  Named convolve(Named in, size_t channels, size_t kernel, size_t stride, bool is_rectified = true,
                 const Named* added = nullptr) {
    const Named out = plane((in.side + stride - 1) / stride, channels);
    const size_t n_in = in.number == 0 ? 3 : filled(in.channels), n_out = filled(channels);
    std::vector<float> weights =
        draw(kernel * kernel * n_in * n_out, 1.2f / std::sqrt(static_cast<float>(kernel * kernel * in.channels)));
    for (size_t i = 0; i < weights.size(); ++i)
      if (i % n_out >= channels || i / n_out % n_in >= in.channels) weights[i] = 0;
    std::vector<float> bias = draw(n_out, 0.3f);
    std::fill(bias.begin() + static_cast<std::ptrdiff_t>(channels), bias.end(), 0.0f);
    network_.convolve(in.number, out.number, kernel, stride, weights, bias, is_rectified,
                      added ? &added->number : nullptr);
    return out;
  }

  Named block(Named in, size_t channels, size_t kernel) {
    const Named inner = convolve(in, channels, 3, 2), shortcut = convolve(in, channels, kernel, 2, false);
    return convolve(inner, channels, 3, 1, true, &shortcut);
  }

  Named identity_block(Named in) { return convolve(convolve(in, in.channels, 3, 1), in.channels, 3, 1, true, &in); }

  Named attend(Named in, float offset) {
    const Named out = plane(in.side, in.channels);
    network_.attend(in.number, out.number, in.channels, offset, draw(18, 0.5f));
    return out;
  }

  void finish(size_t n_features, size_t bits) {
    network_.finish(bits, draw(n_features * filled(bits), 1 / std::sqrt(static_cast<float>(n_features))),
                    draw(filled(bits), 0.1f));
  }

  void build_s(size_t bits) {
    Named x = block({0, network_.size(), 3}, 13, 3), pooled = plane(x.side, x.channels);
    network_.pool_maximum(x.number, pooled.number);
    x = block(attend(pooled, 0), 5, 3);
    pooled = plane(x.side, x.channels);
    network_.pool_average(x.number, pooled.number);
    x = block(pooled, 5, 3);
    network_.flatten(x.number, 5);
    finish(5 * x.side * x.side, bits);  // more than the hash layer takes at once
  }

  void build_residual(size_t bits, bool is_deeper) {
    Named x = convolve({0, network_.size(), 3}, 7, 3, 2);
    for (const size_t channels : {8u, 19u, 40u}) {
      x = block(x, channels, 1);
      if (is_deeper && channels > 8) x = identity_block(x);
      x = attend(x, 1);
    }
    network_.summarise(x.number);
    finish(2 * filled(x.channels), bits);
  }

  void build_long_residual(size_t bits) {
    const Named x = convolve({0, network_.size(), 3}, 7, 3, 2), inner = convolve(convolve(x, 7, 3, 1), 7, 3, 1);
    const Named last = convolve(convolve(inner, 7, 3, 1, true, &x), 9, 1, 1);
    network_.summarise(last.number);
    finish(2 * filled(last.channels), bits);
  }

  cuda::Network& network_;
  std::mt19937_64 random_;
};

bool has_tiles = false, has_joined = false;  // what the cases came across, lest they test little

// A network of the case on a device, and the device.
struct Built {
  explicit Built(const Case& given, std::vector<TileSize> sizes = {})
      : device(given.seed, 1, uint64_t{1} << 33), network(device, given.size, values(), {2, 1, 0}, given.dtype) {
    device.n_tile_bytes = given.n_tile_bytes;
    network.tile_sizes = std::move(sizes);
    network.most_images = 2;
    Builder(network, given.seed).build(given.kind, given.bits);
  }

  static std::vector<float> values() {
    std::vector<float> values(3 * 256);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = (static_cast<float>(i % 256) - 120 - static_cast<float>(i / 256)) / 60;
    return values;
  }

  EmulatedDevice device;
  cuda::Network network;
};

// Of an image's logits, as shares of the root mean square of those expected.
struct Difference {
  Difference(const float* logits, const std::vector<double>& expected) {
    double sum = 0, spread = 0;
    for (size_t bit = 0; bit < expected.size(); ++bit) {
      const double difference = std::abs(static_cast<double>(logits[bit]) - expected[bit]);
      is_finite &= std::isfinite(difference);
      largest = std::max(largest, difference);
      sum += difference * difference;
      spread += expected[bit] * expected[bit];
    }
    largest /= std::sqrt(spread / static_cast<double>(expected.size()));
    typical = std::sqrt(sum / spread);
  }

  bool is_finite = true;
  double largest = 0, typical;
};

// 16-bit floats round: the logits are near those of the same network with 64-bit sums and the same rounding, which
// tells a wrong place from rounding, and not far from those without rounding: bits differ where these are small alone.
bool are_right(const Case& given, const Description& network, const uint8_t* square, const float* logits) {
  const Difference difference(logits, PlainNetwork(network, false).logits(square));
  if (given.dtype == Dtype::kFloat32) return difference.is_finite && difference.largest < 1e-5;
  const Difference from_rounded(logits, PlainNetwork(network, true).logits(square));
  return difference.is_finite && difference.typical < 2e-3 && difference.largest < 1e-2 && from_rounded.largest < 2e-3;
}

bool is_right(const Case& given) {
  std::mt19937_64 random(given.seed);
  Built built(given);
  cuda::Network& network = built.network;
  if (network.dtype() != given.dtype) return false;
  for (const StagePlan& plan : network.stages()) {
    if (given.dtype == Dtype::kFloat32 && plan.stage.n_streamed > 1) return false;
    has_tiles |= plan.stage.n_tiles_y > 1 && plan.stage.n_tiles_x > 1 && plan.stage.n_steps > 5;
    has_joined |= plan.stage.n_tiles_y == 1 && plan.stage.n_steps > 8;
  }
  const size_t square_bytes = 3 * given.size * given.size, n_words = network.n_words();
  std::vector<uint8_t> squares(given.n_images * square_bytes);
  for (uint8_t& value : squares) value = static_cast<uint8_t>(random());
  std::vector<float> logits(given.n_images * given.bits), again(logits.size());
  std::vector<uint64_t> codes(given.n_images * n_words, ~uint64_t{0}), codes_again(codes.size());
  network.run(squares.data(), given.n_images, logits.data(), codes.data());
  std::vector<uint8_t> made_late(squares.size());
  built.device.others_work = [&] { made_late = squares; };
  network.run_on_device(made_late.data(), given.n_images, again.data(), codes_again.data(), nullptr);
  if (again != logits || codes_again != codes) return false;
  for (size_t image = 0; image < given.n_images; ++image) {
    const uint8_t* square = &squares[image * square_bytes];
    const float* found = &logits[image * given.bits];
    if (!are_right(given, network, square, found)) return false;
    for (size_t bit = 0; bit < 64 * n_words; ++bit) {
      const bool is_set = codes[image * n_words + bit / 64] >> (bit % 64) & 1;
      if (is_set != (bit < given.bits && found[bit] > 0)) return false;
    }
  }
  if (given.n_images == 1) return true;
  // Alone, and in another order of threads, an image has the same logits.
  network.run(&squares[square_bytes], 1, again.data(), codes_again.data());
  return std::equal(&logits[given.bits], &logits[2 * given.bits], again.begin());
}

// What streamed stages came across.
struct Streamed {
  bool is_long = false, is_whole = false, has_strips = false, has_replaced = false;
  bool keeps_much = false;   // more rows than a band has
  bool ends_early = false;   // the last band is not a whole one
  bool reads_added = false;  // from the GPU's memory
  bool has_parts = false;

  void add(const Built& built) {
    for (const StagePlan& plan : built.network.stages()) {
      const Stage& stage = plan.stage;
      if (stage.n_streamed == 1) continue;
      is_long |= stage.n_steps > 8;
      is_whole |= stage.n_tiles_x == 1;
      has_strips |= stage.n_tiles_x > 2;
      for (unsigned i = 0; i < stage.n_steps; ++i) {
        const StageStep& step = stage.steps[i];
        const TiledPlane &out = stage.planes[step.out], &added = stage.planes[step.added];
        keeps_much |= out.kept_height > out.core_height;
        ends_early |= out.height % out.core_height != 0;
        has_replaced |= step.has_added && out.tile != kNowhere && out.tile == added.tile && out.kept_height > 0;
        reads_added |= step.has_added && added.tile == kNowhere;
      }
    }
    has_parts |= built.device.has_parts;
  }
  bool is_all() const {
    return is_long && is_whole && has_strips && has_replaced && keeps_much && ends_early && reads_added && has_parts;
  }
};

// Streamed, in bands and strips of any size and with a picture's bands divided among blocks, logits are those of tiles.
bool is_streamed_right(const Case& given, const std::vector<TileSize>& sizes, Streamed& streamed) {
  std::mt19937_64 random(given.seed);
  std::vector<uint8_t> squares(given.n_images * 3 * given.size * given.size);
  for (uint8_t& value : squares) value = static_cast<uint8_t>(random());
  const auto logits_of = [&](Built& built) {
    std::vector<float> logits(given.n_images * given.bits);
    std::vector<uint64_t> codes(given.n_images * built.network.n_words());
    built.network.run(squares.data(), given.n_images, logits.data(), codes.data());
    return logits;
  };
  Built in_tiles(given, {{kLarge, kLarge, false}, {8, 8, false}, {2, 2, false}});
  const std::vector<float> expected = logits_of(in_tiles);
  if (!are_right(given, in_tiles.network, squares.data(), expected.data())) return false;
  for (const TileSize& size : sizes) {
    Built in_bands(given, {size});
    for (const StagePlan& plan : in_bands.network.stages())
      if (plan.stage.n_streamed == 1) return false;
    if (logits_of(in_bands) != expected) return false;
    streamed.add(in_bands);
  }
  return true;
}

bool streams_right() {
  const std::vector<TileSize> whole{{1, kLarge, true}, {2, kLarge, true}, {3, kLarge, true}},
      strips{{1, 2, true}, {2, 1, true}, {1, 3, true}, {3, 4, true}};
  Streamed streamed;
  uint64_t seed = 100;
  for (const char kind : {'s', 'm', 'l', 'r'})
    for (const size_t size : {64, 50})
      for (const bool is_whole : {true, false}) {
        const Case given{Dtype::kFloat16, kind, size, 24, size == 50 ? 2u : 1u, (is_whole ? 113u : 24u) * 1024, ++seed};
        if (!is_streamed_right(given, is_whole ? whole : strips, streamed))
          return given.print("not streamed right"), false;
      }
  return streamed.is_all() || (std::puts("streamed stages lack something: this tests little"), false);
}

// What does not fit is refused before anything runs.
bool refuses() {
  EmulatedDevice device(1, 1, uint64_t{1} << 33);
  device.n_tile_bytes = 500;
  cuda::Network network(device, 64, std::vector<float>(768), {0, 1, 2}, Dtype::kFloat32);
  size_t n_refused = 0;
  try {
    network.run(nullptr, 1, nullptr, nullptr);
  } catch (const std::invalid_argument&) {
    ++n_refused;
  }
  try {
    Builder(network, 1).build('s', 8);
  } catch (const std::invalid_argument&) {
    ++n_refused;
  }
  cuda::Network of_nothing(device, 64, std::vector<float>(768), {0, 1, 2}, Dtype::kFloat16);
  of_nothing.flatten(of_nothing.add_plane(4, 4, 8), 1);
  try {
    of_nothing.finish(8, std::vector<float>(16 * 8), std::vector<float>(8));
  } catch (const std::invalid_argument&) {
    ++n_refused;
  }
  // A picture as high as a band is no strip of bands.
  device.n_tile_bytes = 113 * 1024;
  cuda::Network of_one_band(device, 64, std::vector<float>(768), {0, 1, 2}, Dtype::kFloat16);
  of_one_band.tile_sizes = {{32, kLarge, true}};
  try {
    Builder(of_one_band, 1).build('m', 8);
  } catch (const std::invalid_argument&) {
    ++n_refused;
  }
  return n_refused == 4;
}

// Whether a network whose first convolution has this kernel and stride is one of 16-bit floats.
bool is_float16(size_t kernel, size_t stride) {
  EmulatedDevice device(1, 1, uint64_t{1} << 33);
  cuda::Network network(device, 16, std::vector<float>(768), {0, 1, 2}, Dtype::kFloat16);
  const size_t side = 16 / stride, plane = network.add_plane(side, side, 8);
  network.convolve(0, plane, kernel, stride, std::vector<float>(kernel * kernel * 3 * 8), std::vector<float>(8), true,
                   nullptr);
  network.summarise(plane);
  network.finish(8, std::vector<float>(16 * 8), std::vector<float>(8));
  return network.dtype() == Dtype::kFloat16;
}

}  // namespace

int main() {
  if (!refuses()) return std::puts("what does not fit is not refused"), 1;
  if (!is_float16(3, 2) || is_float16(3, 1) || is_float16(1, 2)) return std::puts("wrong networks have 16 bits"), 1;
  if (!streams_right()) return 1;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16}) {
    uint64_t seed = 0;
    has_tiles = has_joined = false;
    for (const char kind : {'s', 'm', 'l'})
      for (const size_t size : {64, 88})
        for (const size_t n_tile_bytes : {113 * 1024, 24 * 1024}) {
          // One logit is no spread, as a share of which differences are counted.
          const size_t one = dtype == Dtype::kFloat16 ? 24 : 1, bits = std::vector<size_t>{36, one, 64, 200}[seed % 4];
          const Case given{dtype, kind, size, bits, seed % 2 == 0 ? 3u : 1u, n_tile_bytes, seed};
          if (!is_right(given)) return given.print("wrong"), 1;
          ++seed;
        }
    if (!has_tiles || !has_joined) return std::puts("no stage had many tiles or many steps: this tests little"), 1;
  }
  return 0;
}
