// From counts to limits: where the k-th hit lies, and how many hits there are up to it.
#pragma once

#include <cmath>
#include <vector>

#include "portable.h"

namespace athsearch {
namespace cuda {

// The bin that holds the k-th counted thing, or the last one that holds any if there are fewer.
struct Level {
  uint64_t bin, n_before, n_at;
  uint64_t n_within() const { return n_before + n_at; }
};

inline Level level_of(const uint64_t* bins, size_t n_bins, uint64_t k) {
  Level level{0, 0, 0};
  uint64_t n = 0;
  for (size_t bin = 0; bin < n_bins && n < k; ++bin) {
    if (bins[bin] == 0) continue;
    level = {bin, n, bins[bin]};
    n += bins[bin];
  }
  return level;
}

// How a search for k of n_rows goes about it.
struct Plan {
  uint64_t every;     // so many-th step is in the sample that gives the first limits
  uint64_t capacity;  // candidates of a query that there is room for, at least k
};

constexpr uint64_t kMostEvery = 256;
constexpr uint64_t kRoom = 1 << 16;  // beyond k: so that equal distances seldom need another scan

// The k-th distance of a sample of one in `every` is an upper bound of the true one, and about every * k rows lie
// within it, some times more since distances are integers. A counted row costs a shared-memory addition, a candidate a
// second look: with the guess that these are 8 and 20 times a comparison and 3 times as many candidates, their sum is
// least at sqrt(n / (8 k)).
inline Plan plan_for(uint64_t n_rows, uint64_t k, uint64_t most_candidates) {
  const auto best = static_cast<uint64_t>(std::sqrt(static_cast<double>(n_rows) / (8 * static_cast<double>(k))));
  uint64_t every = 1;
  while (every < kMostEvery && 2 * every <= best) every *= 2;
  uint64_t capacity = 8 * every * k;
  if (capacity > most_candidates) capacity = most_candidates;
  if (capacity < k + kRoom) capacity = k + kRoom;
  return {every, capacity < n_rows ? capacity : n_rows};
}

}  // namespace cuda
}  // namespace athsearch
