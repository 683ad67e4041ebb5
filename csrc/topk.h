// Keeps the k smallest of the hits it is offered, rows ascending, in a few operations a hit whatever k is.
//
// Distances are small integers, so a count of each tells where the k-th lies without a heap: hits are appended in the
// order they come and those that have lost are thrown out now and then.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "scan.h"

namespace athsearch {

// Orders hits whose rows ascend by (distance, row): a counting sort. Distances are below n_distances.
inline std::vector<Hit> sorted_by_distance(const std::vector<Hit>& hits, size_t n_distances) {
  std::vector<size_t> next(n_distances + 1);
  for (const Hit hit : hits) ++next[hit_distance(hit) + 1];
  for (size_t distance = 1; distance <= n_distances; ++distance) next[distance] += next[distance - 1];
  std::vector<Hit> sorted(hits.size());
  for (const Hit hit : hits) sorted[next[hit_distance(hit)]++] = hit;
  return sorted;
}

class TopK {
 public:
  TopK(uint64_t k, uint64_t largest_distance)
      : k_(k), reach_(static_cast<int64_t>(largest_distance)), n_of_(largest_distance + 1) {}

  // Whether a hit could still enter. Rows ascend, so one that only ties with the k-th loses.
  bool is_open() const { return reach_ >= 0; }

  // Whether k hits are there, so that `radius` is less than every distance.
  bool is_full() const { return reach_ + 1 < static_cast<int64_t>(n_of_.size()); }

  // The largest distance at which a hit could still enter; ask only while is_open().
  uint64_t radius() const { return static_cast<uint64_t>(reach_); }

  void offer(Hit hit) {
    const uint64_t distance = hit_distance(hit);
    ++n_of_[distance];
    if (static_cast<int64_t>(distance) > reach_) return;
    hits_.push_back(hit);
    if (++n_within_ >= k_) shrink();
  }

  // How many hits were offered at this distance. Complete for the k-th distance if all hits up to it were offered.
  uint64_t n_at(uint64_t distance) const { return n_of_[distance]; }

  // The k smallest, ascending, or all if there are fewer.
  std::vector<Hit> take() {
    drop_losers();
    std::vector<Hit> sorted = sorted_by_distance(hits_, n_of_.size());
    std::vector<Hit>().swap(hits_);
    return sorted;
  }

 private:
  void shrink() {
    while (n_within_ >= k_) n_within_ -= n_of_[static_cast<size_t>(reach_--)];
    if (hits_.size() >= 2 * k_ + 64) drop_losers();
  }

  // Keeps the hits within reach and, of those one farther, the first ones that fill up to k.
  void drop_losers() {
    const int64_t last = reach_ + 1;
    uint64_t n_last = k_ - n_within_;
    size_t n_kept = 0;
    for (const Hit hit : hits_) {
      const auto distance = static_cast<int64_t>(hit_distance(hit));
      if (distance > last || (distance == last && n_last == 0)) continue;
      n_last -= distance == last;
      hits_[n_kept++] = hit;
    }
    hits_.resize(n_kept);
  }

  uint64_t k_;
  int64_t reach_;               // the largest distance at which a hit could still enter; -1 when none could
  uint64_t n_within_ = 0;       // hits at a distance <= reach_; fewer than k
  std::vector<uint64_t> n_of_;  // [largest distance + 1]
  std::vector<Hit> hits_;       // rows ascending; some have lost
};

}  // namespace athsearch
