// The searches over distinct codes: the flat scan's blocks and kernels over the codes, counts weighted by the rows that
// carry each, and only the nearest codes' rows are ever looked at.
#include "distinct.h"

#include <algorithm>
#include <utility>

#include "blocks.h"

namespace athsearch {

namespace {

constexpr uint64_t kNotCounted = ~uint64_t{0};

bool is_everything_wanted(const RowRange&) { return true; }

// Calls take(row) for the allowed rows of a code, ascending, until it returns false.
template <class Take>
void for_each_row(const Postings& postings, uint64_t code, const uint64_t* mask, Take take) {
  for (int64_t i = postings.offsets[code]; i < postings.offsets[code + 1]; ++i)
    if (is_allowed(mask, postings.rows[i]) && !take(postings.rows[i])) return;
}

// How many allowed rows carry a code; with a mask counting stops at `most`.
uint64_t n_allowed(const Postings& postings, uint64_t code, const uint64_t* mask, uint64_t most) {
  if (mask == nullptr) return static_cast<uint64_t>(postings.offsets[code + 1] - postings.offsets[code]);
  uint64_t n = 0;
  for_each_row(postings, code, mask, [&](uint32_t) { return ++n < most; });
  return n;
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

// Appends the first k rows, ordered by (distance, row), and returns how many tie with the last.
int64_t append_rows(const Postings& postings, const std::vector<const NearestCodes*>& nearest,
                    uint64_t largest_distance, uint64_t k, const uint64_t* mask, std::vector<Hit>& rows) {
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
        for_each_row(postings, hit_row(hit), mask, [&](uint32_t row) {
          rows.push_back(make_hit(distance, row));
          return true;
        });
        continue;
      }
      size_t n_of_code = 0;
      for_each_row(postings, hit_row(hit), mask, [&](uint32_t row) {
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
  return static_cast<int64_t>(n_last);
}

}  // namespace

Found top_k(const Postings& postings, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties) {
  const Database& database = postings.codes;
  const uint64_t largest_distance = 64 * database.n_words();
  const size_t group_size = n_queries_at_once(database, k);  // besides them all codes that tie with the k-th are kept
  Interruptions interruptions(options);
  const uint64_t most = n_ties == nullptr ? k : ~uint64_t{0};  // rows of a code that count
  Found found;
  found.offsets.push_back(0);
  for (size_t first = 0; first < queries.n_queries; first += group_size) {
    const size_t n_group = std::min(group_size, queries.n_queries - first);
    const uint64_t* group = queries.words + first * database.n_words();
    const Pass pass(database, n_group, options);
    std::vector<std::vector<NearestCodes>> best(pass.n_threads(),
                                                std::vector<NearestCodes>(n_group, NearestCodes(k, largest_distance)));
    std::vector<std::vector<uint64_t>> counts(pass.n_threads());  // of the block's codes: counted once for all queries
    pass.run(is_everything_wanted, [&](unsigned thread, Workspace& workspace) {
      if (options.mask != nullptr) counts[thread].assign(workspace.n_rows(), kNotCounted);
      uint64_t n_looked_at = 0;
      const auto n_rows_of = [&](uint64_t code) {
        if (options.mask == nullptr) return n_allowed(postings, code, nullptr, most);
        uint64_t& count = counts[thread][code - workspace.first_row()];
        if (count == kNotCounted) {
          count = n_allowed(postings, code, options.mask, most);
          n_looked_at += n_allowed(postings, code, nullptr, most);
        }
        return count;
      };
      for (size_t q = 0; q < n_group; ++q) {
        NearestCodes& nearest = best[thread][q];
        // While there are no k rows everything is near, so the first steps are small.
        uint64_t begin = 0, step = nearest.is_full() ? workspace.n_rows() : kPartRows;
        while (begin < workspace.n_rows()) {
          const uint64_t end = std::min(begin + step, workspace.n_rows());
          workspace.scan(group + q * database.n_words(), nearest.radius(), begin, end, [&](Hit hit) {
            if (hit_distance(hit) <= nearest.radius()) nearest.offer(hit, n_rows_of(hit_row(hit)));
          });
          begin = end;
          step *= 2;
        }
      }
      return n_looked_at;
    });
    for (size_t q = 0; q < n_group; ++q) {
      std::vector<const NearestCodes*> nearest;
      for (const std::vector<NearestCodes>& per_query : best) nearest.push_back(&per_query[q]);
      if (interruptions.is_told()) throw Interrupted();
      const int64_t n_tied = append_rows(postings, nearest, largest_distance, k, options.mask, found.hits);
      found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
      if (n_ties != nullptr) n_ties->push_back(n_tied);
    }
  }
  return found;
}

Found within(const Postings& postings, const Queries& queries, uint64_t radius, const Options& options) {
  Options over_codes = options;
  over_codes.mask = nullptr;
  Interruptions interruptions(options);
  const Found codes = within(postings.codes, queries, radius, over_codes);
  Found found;
  found.offsets.push_back(0);
  for (size_t q = 0; q < queries.n_queries; ++q) {
    if (interruptions.is_told()) throw Interrupted();
    const auto begin = static_cast<std::ptrdiff_t>(found.hits.size());
    for (auto i = static_cast<size_t>(codes.offsets[q]); i < static_cast<size_t>(codes.offsets[q + 1]); ++i)
      for_each_row(postings, hit_row(codes.hits[i]), options.mask, [&](uint32_t row) {
        found.hits.push_back(make_hit(hit_distance(codes.hits[i]), row));
        return true;
      });
    std::sort(found.hits.begin() + begin, found.hits.end());
    found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
  }
  return found;
}

}  // namespace athsearch
