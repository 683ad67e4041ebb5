// The flat search: every row is compared. A thread's blocks ascend, so ties resolve by order of arrival, and threads
// merge by sorting integers. The answer cannot depend on who took which block.
#include "scanner.h"

#include <algorithm>

#include "blocks.h"
#include "topk.h"

namespace athsearch {

namespace {

// Whether a mask allows any row of a range.
struct Wanted {
  const uint64_t* mask;

  bool operator()(const RowRange& range) const {
    if (mask == nullptr) return true;
    const uint64_t end = range.first_row + range.n_rows;
    const uint64_t first_word = range.first_row / 64, last_word = (end - 1) / 64;
    for (uint64_t word = first_word; word <= last_word; ++word) {
      uint64_t bits = mask[word];
      if (word == first_word) bits &= ~uint64_t{0} << (range.first_row % 64);
      if (word == last_word) bits &= ~uint64_t{0} >> (63 - (end - 1) % 64);
      if (bits) return true;
    }
    return false;
  }
};

// Appends the first k of several ascending lists, merged.
void append_merged(std::vector<std::vector<Hit>> lists, uint64_t k, Found& found) {
  const auto begin = static_cast<std::ptrdiff_t>(found.hits.size());
  for (const std::vector<Hit>& list : lists) {
    const auto middle = static_cast<std::ptrdiff_t>(found.hits.size());
    found.hits.insert(found.hits.end(), list.begin(), list.end());
    std::inplace_merge(found.hits.begin() + begin, found.hits.begin() + middle, found.hits.end());
  }
  const uint64_t n_merged = found.hits.size() - static_cast<uint64_t>(begin);
  found.hits.resize(static_cast<size_t>(begin) + static_cast<size_t>(std::min(k, n_merged)));
  found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
}

// How many of an answer's rows lie at a distance that is at most that of its last hit if it has k.
int64_t n_at(const Found& found, const std::vector<int64_t>& ties, size_t query, uint64_t distance) {
  const auto begin = found.hits.begin() + found.offsets[query], end = found.hits.begin() + found.offsets[query + 1];
  if (begin == end) return 0;
  if (hit_distance(end[-1]) == distance) return ties[query];
  return std::lower_bound(begin, end, make_hit(distance + 1, 0)) - std::lower_bound(begin, end, make_hit(distance, 0));
}

}  // namespace

uint64_t Database::n_rows() const {
  uint64_t n_rows = 0;
  for (const Segment& segment : segments) n_rows += segment.n_rows;
  return n_rows;
}

Found merged(const Found& first, const std::vector<int64_t>& first_ties, const Found& second,
             const std::vector<int64_t>& second_ties, uint64_t k, std::vector<int64_t>* n_ties) {
  Found found;
  found.offsets.push_back(0);
  for (size_t q = 0; q + 1 < first.offsets.size(); ++q) {
    std::vector<std::vector<Hit>> lists;
    for (const Found* part : {&first, &second})
      lists.emplace_back(part->hits.begin() + part->offsets[q], part->hits.begin() + part->offsets[q + 1]);
    append_merged(std::move(lists), k, found);
    if (n_ties == nullptr) continue;
    const bool is_any = found.offsets.back() > found.offsets.end()[-2];
    const uint64_t last = is_any ? hit_distance(found.hits.back()) : 0;
    n_ties->push_back(is_any ? n_at(first, first_ties, q, last) + n_at(second, second_ties, q, last) : 0);
  }
  return found;
}

Found top_k(const Database& database, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties) {
  const uint64_t largest_distance = 64 * database.n_words();
  const size_t group_size = n_queries_at_once(database, k);
  const uint64_t beyond = n_ties == nullptr ? 0 : 1;  // ties with the k-th lie one past the distance that still enters
  const Wanted wanted{options.mask};
  Interruptions interruptions(options);
  Found found;
  found.offsets.push_back(0);
  for (size_t first = 0; first < queries.n_queries; first += group_size) {
    const size_t n_group = std::min(group_size, queries.n_queries - first);
    const uint64_t* group = queries.words + first * database.n_words();
    const Pass pass(database, {group, n_group}, options);
    std::vector<std::vector<TopK>> best(pass.n_threads(), std::vector<TopK>(n_group, TopK(k, largest_distance)));
    pass.run(interruptions, wanted, [&](unsigned thread, Workspace& workspace) {
      TopK* tops = best[thread].data();
      const auto radius = [&](size_t q) {
        if (!tops[q].is_open()) return static_cast<int64_t>(beyond) - 1;
        return static_cast<int64_t>(tops[q].radius() + beyond);
      };
      const auto is_narrow = [&](size_t q) { return tops[q].is_full(); };
      workspace.scan(group, n_group, radius, is_narrow, [&](size_t q, Hit hit) {
        if (is_allowed(options.mask, hit_row(hit))) tops[q].offer(hit);
      });
      return uint64_t{0};
    });
    if (interruptions.is_told()) throw Interrupted();
    for (size_t q = 0; q < n_group; ++q) {
      std::vector<std::vector<Hit>> lists;
      for (std::vector<TopK>& per_query : best) lists.push_back(per_query[q].take());
      append_merged(std::move(lists), k, found);
      if (n_ties == nullptr) continue;
      const auto n_hits = found.offsets.back() - found.offsets.end()[-2];
      int64_t n_tied = 0;
      if (n_hits > 0)
        for (const std::vector<TopK>& per_query : best)
          n_tied += static_cast<int64_t>(per_query[q].n_at(hit_distance(found.hits.back())));
      n_ties->push_back(n_tied);
    }
  }
  return found;
}

Found within(const Database& database, const Queries& queries, uint64_t radius, const Options& options) {
  constexpr size_t kGroupSize = 4096;  // so that the lists of a thread's hits stay small, and a block's visit short
  const Wanted wanted{options.mask};
  Interruptions interruptions(options);
  Found found;
  found.offsets.push_back(0);
  for (size_t first = 0; first < queries.n_queries; first += kGroupSize) {
    const size_t n_group = std::min(kGroupSize, queries.n_queries - first);
    const uint64_t* group = queries.words + first * database.n_words();
    const Pass pass(database, {group, n_group}, options);
    std::vector<std::vector<std::vector<Hit>>> lists(pass.n_threads(), std::vector<std::vector<Hit>>(n_group));
    pass.run(interruptions, wanted, [&](unsigned thread, Workspace& workspace) {
      const auto radius_of = [&](size_t) { return static_cast<int64_t>(radius); };
      const auto is_narrow = [](size_t) { return true; };
      workspace.scan(group, n_group, radius_of, is_narrow, [&](size_t q, Hit hit) {
        if (is_allowed(options.mask, hit_row(hit))) lists[thread][q].push_back(hit);
      });
      return uint64_t{0};
    });
    if (interruptions.is_told()) throw Interrupted();
    for (size_t q = 0; q < n_group; ++q) {
      std::vector<std::vector<Hit>> sorted;
      for (std::vector<std::vector<Hit>>& per_query : lists) {
        sorted.push_back(sorted_by_distance(per_query[q], 64 * database.n_words() + 1));
        std::vector<Hit>().swap(per_query[q]);
      }
      append_merged(std::move(sorted), ~uint64_t{0}, found);
    }
  }
  return found;
}

}  // namespace athsearch
