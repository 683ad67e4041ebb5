// Which codes may carry the k nearest rows, and the rows that they carry.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "blocks.h"
#include "distinct.h"

namespace athsearch {

// The places of a code's rows in postings.rows. Postings may come from a damaged file, so they are checked where they
// are used; throws Damaged.
inline std::pair<uint64_t, uint64_t> places_of(const Postings& postings, uint64_t code) {
  const auto begin = static_cast<uint64_t>(postings.offsets[code]),
             end = static_cast<uint64_t>(postings.offsets[code + 1]);
  if (begin >= end || end > postings.n_rows) throw Damaged();
  return {begin, end};
}

// Calls take(row) for the allowed rows of a code, ascending, until it returns false.
template <class Take>
void for_each_row(const Postings& postings, uint64_t code, const uint64_t* mask, Take take) {
  if (postings.offsets == nullptr) {
    if (is_allowed(mask, code)) take(code);
    return;
  }
  const auto [begin, end] = places_of(postings, code);
  for (uint64_t place = begin; place < end; ++place) {
    const uint64_t row = postings.rows[place];
    if (row >= postings.n_rows) throw Damaged();
    if (is_allowed(mask, row) && !take(row)) return;
  }
}

// How many rows carry a code.
inline uint64_t n_rows_of(const Postings& postings, uint64_t code) {
  if (postings.offsets == nullptr) return 1;
  const auto [begin, end] = places_of(postings, code);
  return end - begin;
}

// How many allowed rows carry a code; with a mask counting stops at `most`.
inline uint64_t n_allowed(const Postings& postings, uint64_t code, const uint64_t* mask, uint64_t most) {
  if (mask == nullptr) return n_rows_of(postings, code);
  uint64_t n = 0;
  for_each_row(postings, code, mask, [&](uint64_t) { return ++n < most; });
  return n;
}

// Appends the allowed rows of codes, given as hits, ordered by (distance, row).
inline void append_rows_of(const Postings& postings, const Hit* codes, size_t n_codes, const uint64_t* mask,
                           std::vector<Hit>& rows) {
  const auto begin = static_cast<std::ptrdiff_t>(rows.size());
  for (size_t i = 0; i < n_codes; ++i)
    for_each_row(postings, hit_row(codes[i]), mask, [&](uint64_t row) {
      rows.push_back(make_hit(hit_distance(codes[i]), row));
      return true;
    });
  std::sort(rows.begin() + begin, rows.end());
}

// Keeps the codes, as hits whose row is the code's number, that may carry one of the k nearest rows.
class NearestCodes {
 public:
  NearestCodes(uint64_t k, uint64_t largest_distance) : k_(k), radius_(largest_distance), n_of_(largest_distance + 1) {}

  // The largest distance that may still matter: rows that tie with the k-th may come before it.
  uint64_t radius() const { return radius_; }
  bool is_full() const { return n_within_ >= k_; }

  // A hit within radius(), and how many rows carry it.
  void offer(Hit hit, uint64_t n_rows) {
    if (n_rows == 0) return;
    n_of_[hit_distance(hit)] += n_rows;
    hits_.push_back(hit);
    n_within_ += n_rows;
    while (radius_ > 0 && n_within_ - n_of_[radius_] >= k_) n_within_ -= n_of_[radius_--];
    if (hits_.size() < n_kept_) return;
    hits_.erase(std::remove_if(hits_.begin(), hits_.end(), [&](Hit h) { return hit_distance(h) > radius_; }),
                hits_.end());
    n_kept_ = 2 * hits_.size() + 64;
  }

  // Rows counted at a distance; complete up to radius().
  uint64_t n_at(uint64_t distance) const { return n_of_[distance]; }
  const std::vector<Hit>& hits() const { return hits_; }

 private:
  uint64_t k_;
  uint64_t radius_;
  uint64_t n_within_ = 0;       // rows at distances <= radius_
  std::vector<uint64_t> n_of_;  // [largest distance + 1]
  std::vector<Hit> hits_;
  size_t n_kept_ = 64;  // when to throw out those that have lost
};

// Appends the numbers of the codes that an answer's rows carry. rows [n_rows]: the first by (distance, row) of those
// that `nearest` and the mask leave. They are few, so each code's rows are looked up among them and nothing is kept on
// the way.
inline void append_codes(const Postings& postings, const std::vector<const NearestCodes*>& nearest, const Hit* rows,
                         size_t n_rows, const uint64_t* mask, std::vector<uint32_t>& codes) {
  if (n_rows == 0) return;
  const size_t begin = codes.size();
  codes.resize(begin + n_rows);
  const Hit last = rows[n_rows - 1];
  for (const NearestCodes* of_thread : nearest)
    for (const Hit hit : of_thread->hits()) {
      if (hit_distance(hit) > hit_distance(last)) continue;
      for_each_row(postings, hit_row(hit), mask, [&](uint64_t row) {
        const Hit wanted = make_hit(hit_distance(hit), row);
        if (wanted > last) return false;
        const auto place = static_cast<size_t>(std::lower_bound(rows, rows + n_rows, wanted) - rows);
        codes[begin + place] = static_cast<uint32_t>(hit_row(hit));
        return true;
      });
    }
}

// Appends the first k rows, ordered by (distance, row), and, where given, the numbers of their codes; returns how many
// tie with the last.
inline int64_t append_rows(const Postings& postings, const std::vector<const NearestCodes*>& nearest,
                           uint64_t largest_distance, uint64_t k, const uint64_t* mask, std::vector<Hit>& rows,
                           std::vector<uint32_t>* codes) {
  // The distance of the k-th row, and how many rows are nearer.
  uint64_t last = 0, n_nearer = 0, n_last = 0;
  for (uint64_t distance = 0; distance <= largest_distance && n_nearer + n_last < k; ++distance) {
    uint64_t n = 0;
    for (const NearestCodes* codes : nearest) n += codes->n_at(distance);
    if (n == 0) continue;
    n_nearer += n_last;
    n_last = n;
    last = distance;
  }
  const auto begin = static_cast<std::ptrdiff_t>(rows.size());
  const size_t n_wanted = static_cast<size_t>(std::min(k - n_nearer, n_last));
  std::vector<Hit> ties;
  for (const NearestCodes* codes : nearest)
    for (const Hit hit : codes->hits()) {
      const uint64_t distance = hit_distance(hit);
      if (distance > last) continue;
      if (distance < last) {
        for_each_row(postings, hit_row(hit), mask, [&](uint64_t row) {
          rows.push_back(make_hit(distance, row));
          return true;
        });
        continue;
      }
      size_t n_of_code = 0;
      for_each_row(postings, hit_row(hit), mask, [&](uint64_t row) {
        ties.push_back(make_hit(distance, row));
        return ++n_of_code < n_wanted;
      });
      if (ties.size() > 4 * n_wanted + 1024) {
        std::nth_element(ties.begin(), ties.begin() + static_cast<std::ptrdiff_t>(n_wanted), ties.end());
        ties.resize(n_wanted);
      }
    }
  std::sort(rows.begin() + begin, rows.end());
  std::sort(ties.begin(), ties.end());
  rows.insert(rows.end(), ties.begin(), ties.begin() + static_cast<std::ptrdiff_t>(std::min(n_wanted, ties.size())));
  if (codes != nullptr)
    append_codes(postings, nearest, rows.data() + begin, rows.size() - static_cast<size_t>(begin), mask, *codes);
  return static_cast<int64_t>(n_last);
}

}  // namespace athsearch
