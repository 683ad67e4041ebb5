// Weights to the GPU, and images through it.
#include "network.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "groups.h"

namespace athsearch {
namespace cuda {

namespace {

constexpr size_t kMostWorkspace = size_t{1} << 29;  // bytes, where one image does not need more

// Weights of three channels as those of four, the last of them zeros.
std::vector<float> with_fourth_channel(const std::vector<float>& weights, size_t n_out) {
  std::vector<float> filled;
  for (size_t i = 0; i < weights.size(); i += 3 * n_out) {
    filled.insert(filled.end(), weights.begin() + static_cast<std::ptrdiff_t>(i),
                  weights.begin() + static_cast<std::ptrdiff_t>(i + 3 * n_out));
    filled.insert(filled.end(), n_out, 0.0f);
  }
  return filled;
}

}  // namespace

Network::Network(Device& device, size_t size, std::vector<float> values, std::vector<size_t> order, Dtype wanted)
    : Description(size, std::move(values), std::move(order)),
      device_(device),
      dtype_(wanted),
      table_(device),
      last_weights_(device),
      last_bias_(device),
      logits_(device),
      codes_(device),
      weights_(device),
      squares_(device) {}

void Network::finish(size_t bits, std::vector<float> weights, std::vector<float> bias) {
  Description::finish(bits, std::move(weights), std::move(bias));
  if (!has_float16_form(*this)) dtype_ = Dtype::kFloat32;
  stages_ = plan_stages(*this, device_.n_shared_bytes_a_tile(), dtype_,
                        tile_sizes.empty() ? usual_tile_sizes(dtype_) : tile_sizes);
  table_.holding(values());

  // All weights in one piece, each step's first ones aligned to 16 bytes.
  std::vector<uint8_t> all;
  std::vector<size_t> begins, bias_begins, group_begins;
  const auto add = [&all](const auto& more, std::vector<size_t>& into) {
    all.resize((all.size() + 15) / 16 * 16);
    into.push_back(all.size());
    const auto* bytes = reinterpret_cast<const uint8_t*>(more.data());
    all.insert(all.end(), bytes, bytes + more.size() * sizeof more[0]);
  };
  for (const Step& step : steps()) {
    const bool is_convolution = step.kind == Step::Kind::kConvolve;
    if (is_convolution && dtype_ == Dtype::kFloat16)
      add(fragments_of(*this, step), begins);
    else if (is_convolution && step.in == 0)
      add(with_fourth_channel(step.weights, step.bias.size()), begins);
    else
      add(step.weights, begins);
    add(step.bias, bias_begins);
  }
  for (const StagePlan& plan : stages_)
    for (const std::vector<uint32_t>& groups : plan.groups) add(groups, group_begins);
  const uint8_t* uploaded = weights_.holding(all);
  planes_.resize(shapes().size());
  size_t n_steps = 0;  // of the stages before
  n_bytes_an_image_ = 3 * size() * size() + bits * sizeof(float) + n_words() * sizeof(uint64_t);
  for (StagePlan& plan : stages_) {
    plan.stage.table = table_.data();
    for (size_t i = 0; i < 3; ++i) plan.stage.order[i] = static_cast<int>(order()[i]);
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      plan.stage.steps[i].groups = reinterpret_cast<const uint32_t*>(uploaded + group_begins[n_steps++]);
      if (plan.steps[i] == kNone) continue;
      const uint8_t* weights = uploaded + begins[plan.steps[i]];
      plan.stage.steps[i].weights = reinterpret_cast<const float*>(weights);
      plan.stage.steps[i].fragments = reinterpret_cast<const FragmentB*>(weights);
      plan.stage.steps[i].bias = reinterpret_cast<const float*>(uploaded + bias_begins[plan.steps[i]]);
    }
    for (const size_t number : plan.planes) {
      if (number == kNone || number == 0 || planes_[number]) continue;
      planes_[number] = std::make_unique<Memory<uint8_t>>(device_);
      n_bytes_an_image_ += bytes_of(number);
    }
  }

  const size_t n_filled = 64 * n_words(), n_bits = last_bias().size();
  std::vector<float> filled(n_features() * n_filled, 0.0f), filled_bias(n_filled, 0.0f);
  for (size_t feature = 0; feature < n_features(); ++feature)
    std::copy_n(&last_weights()[feature * n_bits], bits, &filled[feature * n_filled]);
  std::copy_n(last_bias().begin(), bits, filled_bias.begin());
  last_weights_.holding(filled);
  last_bias_.holding(filled_bias);
  device_.wait();  // for what is uploaded and freed here
  is_finished_ = true;
}

void Network::run(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes) {
  const std::lock_guard<std::mutex> lock(turn_);
  const size_t n_at_once = make_room(n_images), square_bytes = 3 * size() * size();
  for (size_t begin = 0; begin < n_images; begin += n_at_once) {
    const size_t n = std::min(n_at_once, n_images - begin);
    uint8_t* on_device = squares_.of_size(n * square_bytes);
    float* logits_there = logits_.of_size(n * bits());
    uint64_t* codes_there = codes_.of_size(n * n_words());
    device_.upload(on_device, squares + begin * square_bytes, n * square_bytes);
    run_part(on_device, n, logits_there, codes_there);
    device_.download(logits + begin * bits(), logits_there, n * bits() * sizeof(float));
    device_.download(codes + begin * n_words(), codes_there, n * n_words() * sizeof(uint64_t));
  }
}

void Network::run_on_device(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes, Stream stream) {
  const std::lock_guard<std::mutex> lock(turn_);
  const size_t n_at_once = make_room(n_images);
  device_.follow(stream);
  for (size_t begin = 0; begin < n_images; begin += n_at_once)
    run_part(squares + begin * 3 * size() * size(), std::min(n_at_once, n_images - begin), logits + begin * bits(),
             codes + begin * n_words());
  device_.wait();
}

size_t Network::make_room(size_t n_images) {
  if (!is_finished_) throw std::invalid_argument("the network is not finished");
  const size_t n = std::min({std::max<size_t>(kMostWorkspace / n_bytes_an_image_, 1), most_images, n_images});
  for (size_t number = 0; number < planes_.size(); ++number)
    if (planes_[number]) planes_[number]->of_size(n * bytes_of(number));
  return n;
}

void Network::run_part(const uint8_t* squares, size_t n_images, float* logits, uint64_t* codes) {
  for (StagePlan& plan : stages_) {
    plan.stage.squares = squares;
    for (size_t i = 0; i < plan.planes.size(); ++i) {
      const size_t number = plan.planes[i];
      plan.stage.planes[i].values = number == kNone || number == 0 ? nullptr : planes_[number]->data();
    }
    device_.run_stage(plan.stage, n_images, plan.n_shared_bytes);
  }
  const Step& last = steps().back();
  const Shape& shape = shapes()[last.in];
  device_.finish({reinterpret_cast<const float*>(planes_[last.in]->data()),
                  static_cast<unsigned>(shape.height * shape.width), static_cast<unsigned>(shape.channels),
                  last.kind == Step::Kind::kSummarise, static_cast<unsigned>(n_features()), last_weights_.data(),
                  last_bias_.data(), static_cast<unsigned>(bits()), n_words(), logits,
                  reinterpret_cast<uint32_t*>(codes), static_cast<unsigned>(n_images)});
}

size_t Network::bytes_of(size_t plane) const {
  const bool is_narrow = dtype_ == Dtype::kFloat16 && plane != steps().back().in;
  return shapes()[plane].height * shapes()[plane].width * shapes()[plane].channels * (is_narrow ? 2 : 4);
}

}  // namespace cuda
}  // namespace athsearch
