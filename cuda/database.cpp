// The searches: which launches follow each other, and what is decided between them.
#include "database.h"

#include <algorithm>
#include <numeric>

namespace athsearch {
namespace cuda {

namespace {

constexpr uint64_t kMostWorkspace = uint64_t{1} << 30;  // bytes, where k does not ask for more
constexpr uint64_t kMostQueries = 1024;                 // so that a search can be interrupted between parts
constexpr unsigned kRangeBits = 10;                     // ranges of rows that are told apart at once: 2^10

Answer joined(const std::vector<std::vector<Hit>>& answers) {
  Answer answer{{0}, {}, {}};
  for (const std::vector<Hit>& hits : answers) {
    answer.hits.insert(answer.hits.end(), hits.begin(), hits.end());
    answer.offsets.push_back(static_cast<int64_t>(answer.hits.size()));
  }
  return answer;
}

}  // namespace

Database::Database(Device& device, uint64_t n_rows, unsigned n_words)
    : device_(device),
      n_rows_(n_rows),
      n_words_(n_words),
      least_queries_(device.least_queries()),
      words_(device),
      staged_(device),
      mask_(device),
      queries_(device),
      bins_(device),
      n_candidates_(device),
      n_kept_(device),
      begins_(device),
      limits_(device),
      candidates_(device),
      others_(device),
      hits_(device) {
  if (n_rows == 0) return;
  words_.of_size(n_padded_rows(n_rows) * n_words);
  const uint64_t last_tile = (n_rows - 1) / kTileRows * kTileRows * n_words;
  device.zero(words_.data() + last_tile, (n_padded_rows(n_rows) * n_words - last_tile) * sizeof(uint64_t));
  most_candidates_ = std::min(kMostWorkspace, device.n_free_bytes() / 2) / (2 * sizeof(Hit));
}

void Database::append(const uint64_t* rows, uint64_t n_rows) {
  const std::lock_guard<std::mutex> lock(turn_);
  if (n_rows == 0) return;
  uint64_t* staged = staged_.of_size(n_rows * n_words_);
  device_.upload(staged, rows, n_rows * n_words_ * sizeof(uint64_t));
  device_.arrange(staged, n_rows, n_words_, n_appended_, words_.data());
  n_appended_ += n_rows;
}

size_t Database::n_queries_at_once(uint64_t k) const {
  const uint64_t capacity = plan_for(n_rows_, k, most_candidates_).capacity;
  const uint64_t n = most_candidates_ / std::max<uint64_t>(capacity, n_distances());
  return static_cast<size_t>(std::min(std::max<uint64_t>(n, 1), kMostQueries));
}

Answer Database::top_k(const uint64_t* queries, size_t n_queries, uint64_t k, const uint64_t* mask) {
  const std::lock_guard<std::mutex> lock(turn_);
  std::vector<std::vector<Hit>> answers(n_queries);
  std::vector<int64_t> ties(n_queries, 0);
  if (n_rows_ != 0 && n_queries != 0) {
    upload_mask(mask);
    const Plan plan = plan_for(n_rows_, k, most_candidates_ / n_queries);
    Part all = whole(queries, n_queries, last_at(n_distances() - 1));
    const auto sampled = count(all, std::vector<Hit>(n_queries, 0), kRowBits, n_distances(), plan.every);
    for (size_t q = 0; q < n_queries; ++q) {
      const Level level = level_of(&sampled[q * n_distances()], n_distances(), k);
      if (level.n_within() >= k) all.limits[q] = last_at(level.bin);
    }
    const auto found = scan(all, plan.capacity);
    Part overflown;
    for (size_t q = 0; q < n_queries; ++q) {
      const uint64_t* by_distance = &found[q * n_distances()];
      const uint64_t n_found = std::accumulate(by_distance, by_distance + n_distances(), uint64_t{0});
      const Level level = level_of(by_distance, n_distances(), k);
      all.limits[q] = last_at(level.bin);
      all.n_before[q] = level.n_before;
      all.n_within[q] = level.n_within();
      ties[q] = static_cast<int64_t>(level.n_at);
      if (n_found <= plan.capacity) continue;
      add(overflown, all, q);
      all.n_within[q] = 0;
    }
    sort(all, plan.capacity, k, answers);
    if (overflown.n() != 0) {
      narrow(overflown, k, plan.capacity);
      scan(overflown, plan.capacity);
      sort(overflown, plan.capacity, k, answers);
    }
  }
  Answer answer = joined(answers);
  answer.ties = std::move(ties);
  return answer;
}

Answer Database::within(const uint64_t* queries, size_t n_queries, uint64_t radius, const uint64_t* mask) {
  const std::lock_guard<std::mutex> lock(turn_);
  std::vector<std::vector<Hit>> answers(n_queries);
  if (n_rows_ != 0 && n_queries != 0) {
    upload_mask(mask);
    const uint64_t capacity = std::min(kRoom, n_rows_);
    Part all = whole(queries, n_queries, last_at(radius));
    const auto found = scan(all, capacity);
    std::vector<Part> overflown;
    for (size_t q = 0; q < n_queries; ++q) {
      const uint64_t* by_distance = &found[q * n_distances()];
      all.n_within[q] = std::accumulate(by_distance, by_distance + n_distances(), uint64_t{0});
      if (all.n_within[q] <= capacity) continue;
      add(overflown.emplace_back(), all, q);
      all.n_within[q] = 0;
    }
    sort(all, capacity, n_rows_, answers);
    for (const Part& part : overflown) {  // one by one: each may be the whole database
      scan(part, part.n_within[0]);
      sort(part, part.n_within[0], n_rows_, answers);
    }
  }
  return joined(answers);
}

Database::Part Database::whole(const uint64_t* queries, size_t n_queries, Hit limit) const {
  Part part{std::vector<size_t>(n_queries), std::vector<uint64_t>(queries, queries + n_queries * n_words_),
            std::vector<Hit>(n_queries, limit), std::vector<uint64_t>(n_queries, 0),
            std::vector<uint64_t>(n_queries, 0)};
  std::iota(part.numbers.begin(), part.numbers.end(), size_t{0});
  return part;
}

void Database::add(Part& part, const Part& from, size_t i) const {
  const auto query = from.queries.begin() + static_cast<std::ptrdiff_t>(i * n_words_);
  part.numbers.push_back(from.numbers[i]);
  part.queries.insert(part.queries.end(), query, query + n_words_);
  part.limits.push_back(from.limits[i]);
  part.n_before.push_back(from.n_before[i]);
  part.n_within.push_back(from.n_within[i]);
}

// A bit for every padded row; the kernels read no others.
void Database::upload_mask(const uint64_t* mask) {
  searched_mask_ = nullptr;
  if (mask == nullptr) return;
  uint64_t* words = mask_.zeros(n_padded_rows(n_rows_) / 64);
  device_.upload(words, mask, (n_rows_ + 63) / 64 * sizeof(uint64_t));
  searched_mask_ = words;
}

// uint64 [part.n(), n_bins], by query.
std::vector<uint64_t> Database::count(const Part& part, const std::vector<Hit>& firsts, unsigned shift, unsigned n_bins,
                                      uint64_t every) {
  std::vector<uint64_t> bins(part.n() * n_bins);
  uint64_t* on_device = bins_.zeros(bins.size());
  device_.count({codes(), searched_mask_, queries_.holding(part.queries), static_cast<unsigned>(part.n()),
                 limits_.holding(firsts), shift, n_bins, every, on_device});
  device_.download(bins.data(), on_device, bins.size() * sizeof(uint64_t));
  return bins;
}

// Leaves the candidates on the device. uint64 [part.n(), n_distances]: how many there are, with room or without.
std::vector<uint64_t> Database::scan(const Part& part, uint64_t capacity) {
  std::vector<uint64_t> by_distance(part.n() * n_distances());
  uint64_t* histogram = bins_.zeros(by_distance.size());
  candidates_.of_size(part.n() * capacity);
  others_.of_size(part.n() * capacity);
  device_.scan({codes(), searched_mask_, queries_.holding(part.queries), static_cast<unsigned>(part.n()), n_distances(),
                limits_.holding(part.limits), histogram, candidates_.data(), n_candidates_.zeros(part.n()), capacity,
                least_queries_.kernel_for(part.n())});
  device_.download(by_distance.data(), histogram, by_distance.size() * sizeof(uint64_t));
  return by_distance;
}

// Lowers limits at which more than `most` hits lie, until the k-th hit is among at most so many: rows at the limit's
// distance are counted by ranges, finer from one time to the next. most: at least k.
void Database::narrow(Part& part, uint64_t k, uint64_t most) {
  std::vector<Hit> firsts;
  for (const Hit limit : part.limits) firsts.push_back(make_hit(hit_distance(limit), 0));
  unsigned shift = bits_below(n_rows_);
  for (;;) {
    shift = shift > kRangeBits ? shift - kRangeBits : 0;
    Part wide;
    std::vector<size_t> places;
    std::vector<Hit> wide_firsts;
    for (size_t q = 0; q < part.n(); ++q) {
      if (part.n_within[q] <= most) continue;
      add(wide, part, q);
      places.push_back(q);
      wide_firsts.push_back(firsts[q]);
    }
    if (places.empty()) return;
    const auto ranges = count(wide, wide_firsts, shift, 1u << kRangeBits, 1);
    for (size_t i = 0; i < places.size(); ++i) {
      const size_t q = places[i];
      const Level level = level_of(&ranges[i << kRangeBits], size_t{1} << kRangeBits, k - part.n_before[q]);
      firsts[q] += level.bin << shift;
      part.limits[q] = firsts[q] + (uint64_t{1} << shift) - 1;
      part.n_before[q] += level.n_before;
      part.n_within[q] = part.n_before[q] + level.n_at;
    }
  }
}

// Of the candidates that the last scan left, the first k within the limits of a part become its queries' answers.
void Database::sort(const Part& part, uint64_t capacity, uint64_t k, std::vector<std::vector<Hit>>& answers) {
  std::vector<uint64_t> begins{0};
  for (const uint64_t n_within : part.n_within) begins.push_back(begins.back() + std::min(k, n_within));
  std::vector<Hit> hits(begins.back());
  if (hits.empty()) return;
  Hit* on_device = hits_.of_size(hits.size());
  device_.sort({{bits_below(n_rows_), bits_below(n_distances())},
                candidates_.data(),
                others_.data(),
                capacity,
                n_candidates_.data(),
                limits_.holding(part.limits),
                n_kept_.holding(part.n_within),
                begins_.holding(begins),
                on_device},
               part.n());
  device_.download(hits.data(), on_device, hits.size() * sizeof(Hit));
  for (size_t q = 0; q < part.n(); ++q)
    answers[part.numbers[q]].insert(answers[part.numbers[q]].end(),
                                    hits.begin() + static_cast<std::ptrdiff_t>(begins[q]),
                                    hits.begin() + static_cast<std::ptrdiff_t>(begins[q + 1]));
}

}  // namespace cuda
}  // namespace athsearch
