// A stage is laid out from its last step backwards: each step needs as much more of what it reads as its window
// reaches, and a streamed one is as many rows ahead. Then all cuts are weighed against each other.
#include "stages.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "convolve_f16.h"
#include "groups.h"

namespace athsearch {
namespace cuda {

namespace {

using Step = Description::Step;
using Shape = Description::Shape;

// A guess at what things cost beside a multiply-add, from an H100's stated rates: 33.5e12 of these a second, 3.35e12
// bytes from memory, twice as many from the cache; and a launch of some microseconds for some hundred images.
constexpr double kByteCost = 10, kWeightByteCost = 5, kLaunchCost = 5e5;
constexpr double kBusyThreads = 128;  // of a block, that keep their part of the multiply-adders busy
// In 16-bit floats: what a step takes beside its work, some 160 instructions of each warp, and its barrier and first
// loads, about 300 clocks, half of them while the multiprocessor's other block has work; and what it takes to keep a
// value of a row and to take it back.
constexpr double kStepCost = 6e4, kKeptCost = 2.5;
constexpr double kInfinite = std::numeric_limits<double>::infinity();
constexpr size_t kWhole = ~size_t{0};
constexpr size_t kTileSides[] = {64, 48, 32, 24, 16, 12, 8, 6, 4, 2, 1}, kBandHeights[] = {16, 8, 4, 2, 1};

int in_whole(int n, int parts) { return (n + parts - 1) / parts; }

unsigned size_of(Dtype dtype) { return dtype == Dtype::kFloat16 ? sizeof(Float16) : sizeof(float); }

// Values from a pixel to the next, such that eight neighbours' 16 bytes lie in different banks; none between pixels
// of the input and of maps.
unsigned pitch_of(unsigned n_channels, Dtype dtype) {
  const unsigned n_bytes = n_channels * size_of(dtype);
  const bool is_even = n_channels % 8 == 0 && n_bytes / 16 % 2 == 0;
  return n_channels + (is_even ? 16 / size_of(dtype) : 0);
}

// Some steps of a description on tiles of one size.
class StageLayout {
 public:
  StageLayout(const Description& description, const std::vector<int>& levels, Dtype dtype, size_t begin, size_t end)
      : description_(description), levels_(levels), dtype_(dtype), begin_(begin), end_(end) {}

  // What one image costs; infinite where the tiles do not fit.
  double lay_out(const TileSize& size, size_t n_shared_bytes) {
    const Shape& last = description_.shapes()[description_.steps()[end_ - 1].out];
    is_streamed_ = size.is_streamed;
    if (is_streamed_ && size.height >= last.height) return kInfinite;
    planes_.clear();
    plan_ = StagePlan{};
    find_needs();
    for (const Used& used : planes_)
      if (used.scale == 0) return kInfinite;
    emit_steps();
    if (planes_.size() > kMostStagePlanes || plan_.steps.size() > kMostStageSteps) return kInfinite;
    if (is_streamed_) find_kept();
    place_planes(static_cast<int>(std::min(size.height, last.height)),
                 static_cast<int>(std::min(size.width, last.width)));
    return plan_.n_shared_bytes <= n_shared_bytes ? cost() : kInfinite;
  }

  StagePlan plan() const {
    StagePlan plan = plan_;
    plan.groups.resize(plan.steps.size());
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      StageStep& step = plan.stage.steps[i];
      if (dtype_ != Dtype::kFloat16 || !is_of_warps<Float16>(step)) continue;
      step.n_products = static_cast<unsigned>(groups_of(step).n_products());
      plan.groups[i] = groups_of(step).places(plan.stage.planes[step.in]);
    }
    return plan;
  }

 private:
  // A plane of the stage: one of the description's, or a map of an attention.
  struct Used {
    size_t plane;  // kNone: a map
    Shape shape;
    int scale;          // how many of its rows there are for one of the stage's last plane
    int before, after;  // rows and columns of a tile beside its core
    bool is_made, is_used_later;
    size_t first = kNone, last = 0;  // steps between which there is a tile
    int kept = 0, above = 0;         // where streamed: rows kept of each band, and rows of its tile above the new ones

    bool has_tile() const { return first != kNone && last > first; }
  };

  size_t reach(size_t plane, int before, int after) {
    const auto has_number = [plane](const Used& used) { return used.plane == plane; };
    auto used = std::find_if(planes_.begin(), planes_.end(), has_number);
    if (used == planes_.end()) {
      const int scale = levels_[description_.steps()[end_ - 1].out] / levels_[plane];
      planes_.push_back({plane, description_.shapes()[plane], scale, 0, 0, false, false});
      used = planes_.end() - 1;
    }
    used->before = std::max(used->before, before);
    used->after = std::max(used->after, after);
    return static_cast<size_t>(used - planes_.begin());
  }

  void find_needs() {
    const std::vector<Step>& steps = description_.steps();
    for (size_t i = begin_; i < end_; ++i) planes_[reach(steps[i].out, 0, 0)].is_made = true;
    for (size_t i = end_; i < steps.size(); ++i)
      for (Used& used : planes_)
        used.is_used_later |= steps[i].in == used.plane || (steps[i].has_added && steps[i].added == used.plane);
    for (size_t i = end_; i-- > begin_;) {
      const Step& step = steps[i];
      const Used out = planes_[reach(step.out, 0, 0)];
      const bool is_convolution = step.kind == Step::Kind::kConvolve;
      const int stride = is_convolution ? static_cast<int>(step.stride) : 1;
      const int window = is_convolution && step.kernel == 1 ? 0 : 1;
      reach(step.in, stride * out.before + window, stride * out.after + (stride == 1 ? window : 0));
      if (step.has_added) reach(step.added, out.before, out.after);
    }
  }

  void emit_steps() {
    for (size_t i = begin_; i < end_; ++i) {
      const Step& step = description_.steps()[i];
      const size_t in = reach(step.in, 0, 0), out = reach(step.out, 0, 0);
      read(in);
      if (step.has_added && has_window_on(step.added)) read(reach(step.added, 0, 0));
      switch (step.kind) {
        case Step::Kind::kConvolve: {
          StageStep& emitted =
              emit(StageStepKind::kConvolve, in, out, step.has_added ? reach(step.added, 0, 0) : kNone, i);
          emitted.kernel = static_cast<int>(step.kernel);
          emitted.stride = static_cast<int>(step.stride);
          emitted.is_rectified = step.is_rectified;
          break;
        }
        case Step::Kind::kPoolMaximum:
          emit(StageStepKind::kPoolMaximum, in, out, kNone, kNone);
          break;
        case Step::Kind::kPoolAverage:
          emit(StageStepKind::kPoolAverage, in, out, kNone, kNone);
          break;
        default: {
          const size_t statistics = add_map(planes_[out], 2, 1), gate = add_map(planes_[out], 1, 0);
          emit(StageStepKind::kStatistics, in, statistics, kNone, kNone).share =
              1.0f / static_cast<float>(step.n_channels);
          emit(StageStepKind::kGate, statistics, gate, kNone, i).offset = step.offset;
          emit(StageStepKind::kScale, in, out, gate, kNone);
        }
      }
    }
  }

  // A plane of an earlier stage to its tile, once.
  void read(size_t i) {
    if (planes_[i].is_made || planes_[i].first != kNone) return;
    emit(planes_[i].plane == 0 ? StageStepKind::kReadSquares : StageStepKind::kRead, i, i, kNone, kNone);
  }

  bool has_window_on(size_t plane) const {
    for (size_t i = begin_; i < end_; ++i)
      if (description_.steps()[i].in == plane) return true;
    return false;
  }

  size_t add_map(const Used& like, size_t n_channels, int more) {
    Used map = like;
    map.plane = kNone;
    map.shape.channels = n_channels;
    map.before += more;
    map.after += more;
    map.is_made = true;
    map.is_used_later = false;
    planes_.push_back(map);
    return planes_.size() - 1;
  }

  StageStep& emit(StageStepKind kind, size_t in, size_t out, size_t added, size_t with_weights_of) {
    const size_t now = plan_.steps.size();
    plan_.steps.push_back(with_weights_of);
    const auto touch = [&](size_t plane) {
      if (planes_[plane].first == kNone) planes_[plane].first = now;
      planes_[plane].last = now;
    };
    touch(out);
    touch(in);
    // What is added, but has no tile, comes from the GPU's memory.
    if (added != kNone && planes_[added].first != kNone) touch(added);
    StageStep& step = plan_.stage.steps[std::min<size_t>(now, kMostStageSteps - 1)];  // too many are refused later
    step = StageStep{};
    step.kind = kind;
    step.in = static_cast<uint32_t>(in);
    step.out = static_cast<uint32_t>(out);
    step.has_added = added != kNone;
    step.added = static_cast<uint32_t>(added == kNone ? out : added);
    return step;
  }

  // Of what a step reads, its window begins so many rows above the newest ones of the same band.
  void find_kept() {
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      const StageStep& step = plan_.stage.steps[i];
      if (step.kind == StageStepKind::kReadSquares || step.kind == StageStepKind::kRead) continue;
      Used &in = planes_[step.in], &added = planes_[step.added];
      const int out_after = planes_[step.out].after;
      const int stride = step.kind == StageStepKind::kConvolve ? step.stride : 1;
      in.kept = std::max(in.kept, in.after - stride * out_after + window_of(step));
      if (step.has_added && added.has_tile()) added.kept = std::max(added.kept, added.after - out_after);
    }
    for (Used& used : planes_) used.above = used.kept;
    // What is added to may be replaced by a tile of the same size.
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      const StageStep& step = plan_.stage.steps[i];
      if (step.kind != StageStepKind::kConvolve || !step.has_added) continue;
      Used& added = planes_[step.added];
      if (added.kept == 0 && planes_[step.out].has_tile()) added.above = planes_[step.out].above;
    }
  }

  static int window_of(const StageStep& step) {
    switch (step.kind) {
      case StageStepKind::kConvolve:
        return step.kernel / 2;
      case StageStepKind::kPoolMaximum:
      case StageStepKind::kPoolAverage:
      case StageStepKind::kGate:
        return 1;
      default:
        return 0;
    }
  }

  void place_planes(int tile_height, int tile_width) {
    Stage& stage = plan_.stage;
    const Shape& last = description_.shapes()[description_.steps()[end_ - 1].out];
    stage.dtype = dtype_;
    stage.n_steps = static_cast<unsigned>(plan_.steps.size());
    stage.n_tiles_y = static_cast<unsigned>(in_whole(static_cast<int>(last.height), tile_height));
    stage.n_tiles_x = static_cast<unsigned>(in_whole(static_cast<int>(last.width), tile_width));
    stage.n_streamed = is_streamed_ ? stage.n_tiles_y : 1;
    for (size_t i = 0; i < planes_.size(); ++i) {
      const Used& used = planes_[i];
      TiledPlane& plane = stage.planes[i];
      plane.height = static_cast<int>(used.shape.height);
      plane.width = static_cast<int>(used.shape.width);
      plane.channels = used.plane == 0 ? 4 : static_cast<int>(used.shape.channels);
      plane.pitch = pitch_of(static_cast<unsigned>(plane.channels), dtype_);
      plane.is_wide = dtype_ == Dtype::kFloat16 && used.plane == description_.steps().back().in;
      plane.core_height = tile_height * used.scale;
      plane.core_width = tile_width * used.scale;
      // No window reaches further out of the picture than one pixel.
      const auto cut = [&](unsigned n_tiles, int core, int size, int& before, int& length) {
        before = n_tiles == 1 ? std::min(used.before, 1) : used.before;
        length = before + (n_tiles == 1 ? std::min(core + used.after, size + 1) : core + used.after);
      };
      if (is_streamed_) {
        plane.before_y = used.above - used.after;
        plane.tile_height = used.above + plane.core_height;
        plane.made_height = plane.core_height;
        plane.kept_height = used.has_tile() ? used.kept : 0;
        plane.reach = used.before;
        const auto lead = [&](int before) { return in_whole(before + used.after, plane.core_height); };
        stage.n_lead = std::max(stage.n_lead, lead(used.before));
        stage.n_lead_at_top = std::max(stage.n_lead_at_top, lead(std::min(used.before, 1)));
      } else {
        cut(stage.n_tiles_y, plane.core_height, plane.height, plane.before_y, plane.tile_height);
        plane.made_height = plane.tile_height;
        plane.reach = plane.before_y;
      }
      cut(stage.n_tiles_x, plane.core_width, plane.width, plane.before_x, plane.tile_width);
      // Pairs of the input's pixels are read at once.
      if (dtype_ == Dtype::kFloat16 && used.plane == 0) plane.tile_width += plane.tile_width % 2;
      plane.tile = kNowhere;
      plan_.planes.push_back(used.is_made && !used.is_used_later ? kNone : used.plane);
    }
    place_tiles();
  }

  // Each tile goes where there is room from its first step to its last, the lowest such place; what is added to may
  // stay where it is.
  void place_tiles() {
    std::vector<size_t> by_first;
    for (size_t i = 0; i < planes_.size(); ++i)
      if (planes_[i].has_tile()) by_first.push_back(i);
    std::sort(by_first.begin(), by_first.end(),
              [this](size_t a, size_t b) { return planes_[a].first < planes_[b].first; });
    size_t n_values = 0;
    for (size_t placed = 0; placed < by_first.size(); ++placed) {
      const size_t i = by_first[placed];
      TiledPlane& plane = plan_.stage.planes[i];
      const StageStep& made_by = plan_.stage.steps[planes_[i].first];
      if (made_by.kind == StageStepKind::kConvolve && made_by.has_added && made_by.added != made_by.in &&
          may_replace(i, made_by.added)) {
        plane.tile = plan_.stage.planes[made_by.added].tile;
        continue;
      }
      plane.tile = 0;
      for (bool has_moved = true; has_moved;) {
        has_moved = false;
        for (size_t k = 0; k < placed; ++k) {
          const size_t other = by_first[k];
          const unsigned begin = plan_.stage.planes[other].tile, end = begin + values_of(other);
          const bool is_apart = plane.tile + values_of(i) <= begin || end <= plane.tile;
          if (planes_[other].last < planes_[i].first || is_apart) continue;
          plane.tile = end;
          has_moved = true;
        }
      }
      n_values = std::max(n_values, size_t{plane.tile} + values_of(i));
    }
    for (size_t i = 0; i < planes_.size(); ++i) {
      TiledPlane& plane = plan_.stage.planes[i];
      plane.kept = static_cast<unsigned>(n_values);
      n_values += aligned(static_cast<unsigned>(plane.kept_height * plane.tile_width) * plane.pitch);
    }
    plan_.n_shared_bytes = n_values * size_of(dtype_);
  }

  // Rows that a window reads of what is added were kept by then, with the step after its own.
  bool may_replace(size_t i, size_t added) const {
    const TiledPlane &a = plan_.stage.planes[i], &b = plan_.stage.planes[added];
    return planes_[added].has_tile() && planes_[added].last == planes_[i].first && a.before_y == b.before_y &&
           a.before_x == b.before_x && a.tile_height == b.tile_height && a.tile_width == b.tile_width &&
           a.pitch == b.pitch;
  }

  unsigned values_of(size_t i) const {
    const TiledPlane& plane = plan_.stage.planes[i];
    return aligned(static_cast<unsigned>(plane.tile_height * plane.tile_width) * plane.pitch);
  }

  unsigned aligned(unsigned n_values) const {
    const unsigned n_aligned = 16 / size_of(dtype_);
    return (n_values + n_aligned - 1) / n_aligned * n_aligned;
  }

  double cost() const {
    const bool is_half = dtype_ == Dtype::kFloat16;
    double cost = 0;
    for (size_t i = 0; i < plan_.steps.size(); ++i) {
      const StageStep& step = plan_.stage.steps[i];
      const TiledPlane &in = plan_.stage.planes[step.in], &out = plan_.stage.planes[step.out];
      const int n_pixels = std::min(out.made_height, out.height) * std::min(out.tile_width, out.width);
      const double n_values = static_cast<double>(n_pixels) * out.channels;
      switch (step.kind) {
        case StageStepKind::kReadSquares:
          cost += n_values * kByteCost;
          break;
        case StageStepKind::kRead:
          cost += n_values * size_of(dtype_) * kByteCost;
          break;
        case StageStepKind::kConvolve: {
          if (is_half) {
            cost += tensor_cost(step, n_pixels, plan_.planes[step.out] != kNone);
            break;
          }
          const int n_groups = out.channels / static_cast<int>(kSumChannels);
          const bool is_small = n_pixels * n_groups <= static_cast<int>(2 * kStageThreads);
          const int n_of_thread = is_small ? 1 : static_cast<int>(kMostPixels);
          const int n_threads = in_whole(in_whole(n_pixels, n_of_thread) * n_groups, 32) * 32;
          const double n_factors = static_cast<double>(step.kernel) * step.kernel * in.channels;
          cost += n_factors * kSumChannels * n_of_thread * std::max<double>(n_threads, kBusyThreads);
          cost += n_factors * out.channels * sizeof(float) * kWeightByteCost;
          break;
        }
        case StageStepKind::kPoolMaximum:
          cost += (is_half ? 12 : 10) * n_values;
          break;
        case StageStepKind::kPoolAverage:
          cost += (is_half ? 27 : 10) * n_values;
          break;
        case StageStepKind::kStatistics:
          cost += n_pixels * (is_half ? 40 + 4.0 * in.channels : 2.0 * in.channels);
          break;
        case StageStepKind::kGate:
          cost += (is_half ? 140.0 : 40.0) * n_pixels;
          break;
        case StageStepKind::kScale:
          cost += (is_half ? 8 : 2) * n_values;
      }
    }
    for (size_t i = 0; i < planes_.size(); ++i) {
      const TiledPlane& plane = plan_.stage.planes[i];
      if (planes_[i].is_made && planes_[i].is_used_later)
        cost +=
            static_cast<double>(plane.core_height) * plane.core_width * plane.channels * size_of(dtype_) * kByteCost;
      cost += kKeptCost * plane.kept_height * plane.tile_width * plane.pitch;
    }
    const Stage& stage = plan_.stage;
    cost *= stage.n_tiles_y;
    if (is_half) cost += kStepCost * stage.n_steps * (stage.n_tiles_y + stage.n_lead_at_top);
    return cost * stage.n_tiles_x + kLaunchCost;
  }

  Groups groups_of(const StageStep& step) const {
    return {static_cast<size_t>(step.kernel), static_cast<size_t>(plan_.stage.planes[step.in].channels)};
  }

  // On tensor cores: the instructions of a warp, as counted in the machine code for sm_90a, each as long as 32
  // multiply-adds.
  double tensor_cost(const StageStep& step, int n_pixels, bool is_written) const {
    const int n_out = plan_.stage.planes[step.out].channels;
    const unsigned n_of_piece = n_sets(n_pixels, n_out);
    const auto n_products = static_cast<double>(groups_of(step).n_products());
    const double n_busy = std::max<double>(n_pieces(n_pixels, n_out, n_of_piece), kBusyThreads / 32);
    const double of_set = 55 + (step.has_added ? 43 : 0) + (is_written ? 45 : 0);
    return n_busy * 32 * (50 + n_of_piece * of_set + (10 + 4.5 * n_of_piece) * n_products) +
           n_products * 16 * n_out * sizeof(Float16) * kWeightByteCost;
  }

  const Description& description_;
  const std::vector<int>& levels_;
  Dtype dtype_;
  size_t begin_, end_;
  bool is_streamed_ = false;
  std::vector<Used> planes_;
  StagePlan plan_;
};

// How many rows of the input there are for one of each plane: the product of the strides that led to it.
std::vector<int> levels_of(const Description& description, size_t n_steps) {
  std::vector<int> levels(description.shapes().size(), 0);
  levels[0] = 1;
  for (size_t i = 0; i < n_steps; ++i) {
    const Step& step = description.steps()[i];
    if (levels[step.in] == 0 || (step.has_added && levels[step.added] == 0) || levels[step.out] != 0)
      throw std::invalid_argument("a plane must be made once, before it is read");
    levels[step.out] = levels[step.in] * (step.kind == Step::Kind::kConvolve ? static_cast<int>(step.stride) : 1);
  }
  return levels;
}

}  // namespace

bool has_float16_form(const Description& description) {
  const std::vector<Step>& steps = description.steps();
  const auto is_fine = [](const Step& step) { return step.in != 0 || (step.kernel == 3 && step.stride == 2); };
  return steps.size() > 1 && std::all_of(steps.begin(), steps.end(), is_fine) &&
         steps[steps.size() - 2].out == steps.back().in;
}

std::vector<TileSize> usual_tile_sizes(Dtype dtype) {
  std::vector<TileSize> sizes{{kWhole, kWhole, false}};
  for (const size_t side : kTileSides) {
    sizes.push_back({side, side, false});
    sizes.push_back({side, 2 * side, false});
  }
  if (dtype != Dtype::kFloat16) return sizes;
  for (const size_t height : kBandHeights) {
    sizes.push_back({height, kWhole, true});
    for (const size_t width : kTileSides) sizes.push_back({height, width, true});
  }
  return sizes;
}

std::vector<StagePlan> plan_stages(const Description& description, size_t n_shared_bytes, Dtype dtype,
                                   const std::vector<TileSize>& sizes) {
  const size_t n_steps = description.steps().size() - 1;  // the last one makes features
  const std::vector<int> levels = levels_of(description, n_steps);
  const size_t last = description.steps().back().in;
  if (last == 0 || levels[last] == 0) throw std::invalid_argument("features are made of a plane that a step makes");
  // The cheapest way to do the first `end` steps, and the last of its stages.
  std::vector<double> costs(n_steps + 1, kInfinite);
  std::vector<size_t> begins(n_steps + 1, 0);
  std::vector<StagePlan> lasts(n_steps + 1);
  costs[0] = 0;
  for (size_t end = 1; end <= n_steps; ++end) {
    for (size_t begin = end; begin-- > 0 && end - begin <= kMostStageSteps;) {
      StageLayout layout(description, levels, dtype, begin, end);
      for (const TileSize& size : sizes) {
        const double cost = costs[begin] + layout.lay_out(size, n_shared_bytes);
        if (cost >= costs[end]) continue;
        costs[end] = cost;
        begins[end] = begin;
        lasts[end] = layout.plan();
      }
    }
    if (costs[end] == kInfinite)
      throw std::invalid_argument("a step of this network needs more shared memory than a block may have");
  }
  std::vector<StagePlan> stages;
  for (size_t end = n_steps; end > 0; end = begins[end]) stages.push_back(std::move(lasts[end]));
  std::reverse(stages.begin(), stages.end());
  return stages;
}

}  // namespace cuda
}  // namespace athsearch
