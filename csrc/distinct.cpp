// The searches over distinct codes: the flat scan's blocks and kernels over the codes, counts weighted by the rows that
// carry each, and only the nearest codes' rows are ever looked at.
#include "distinct.h"

#include <algorithm>
#include <utility>

#include "blocks.h"
#include "nearest_codes.h"

namespace athsearch {

namespace {

constexpr uint64_t kNotCounted = ~uint64_t{0};

bool is_everything_wanted(const RowRange&) { return true; }

}  // namespace

Found top_k(const Postings& postings, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties) {
  if (postings.offsets == nullptr) return top_k(postings.codes, queries, k, options, n_ties);
  if (options.mask != nullptr && n_allowed_by(options.mask, postings.n_rows) == 0) {
    if (n_ties != nullptr) n_ties->assign(queries.n_queries, 0);
    return {std::vector<int64_t>(queries.n_queries + 1), {}};
  }
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
    const Pass pass(database, {group, n_group}, options);
    std::vector<std::vector<NearestCodes>> best(pass.n_threads(),
                                                std::vector<NearestCodes>(n_group, NearestCodes(k, largest_distance)));
    std::vector<std::vector<uint64_t>> counts(pass.n_threads());  // of the block's codes: counted once for all queries
    pass.run(interruptions, is_everything_wanted, [&](unsigned thread, Workspace& workspace) {
      if (options.mask != nullptr) counts[thread].assign(workspace.n_rows(), kNotCounted);
      uint64_t n_looked_at = 0;
      const auto n_counted = [&](uint64_t code) {
        if (options.mask == nullptr) return n_rows_of(postings, code);
        uint64_t& count = counts[thread][code - workspace.first_row()];
        if (count == kNotCounted) {
          count = n_allowed(postings, code, options.mask, most);
          n_looked_at += n_rows_of(postings, code);
        }
        return count;
      };
      NearestCodes* nearest = best[thread].data();
      const auto radius = [&](size_t q) { return static_cast<int64_t>(nearest[q].radius()); };
      const auto is_narrow = [&](size_t q) { return nearest[q].is_full(); };
      workspace.scan(group, n_group, radius, is_narrow, [&](size_t q, Hit hit) {
        if (hit_distance(hit) <= nearest[q].radius()) nearest[q].offer(hit, n_counted(hit_row(hit)));
      });
      return n_looked_at;
    });
    for (size_t q = 0; q < n_group; ++q) {
      std::vector<const NearestCodes*> nearest;
      for (const std::vector<NearestCodes>& per_query : best) nearest.push_back(&per_query[q]);
      if (interruptions.is_told()) throw Interrupted();
      const int64_t n_tied = append_rows(postings, nearest, largest_distance, k, options.mask, found.hits,
                                         options.wants_codes ? &found.codes : nullptr);
      found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
      if (n_ties != nullptr) n_ties->push_back(n_tied);
    }
  }
  return found;
}

Found within(const Postings& postings, const Queries& queries, uint64_t radius, const Options& options) {
  if (postings.offsets == nullptr) return within(postings.codes, queries, radius, options);
  Options over_codes = options;
  over_codes.mask = nullptr;
  Interruptions interruptions(options);
  const Found codes = within(postings.codes, queries, radius, over_codes);
  Found found;
  found.offsets.push_back(0);
  for (size_t q = 0; q < queries.n_queries; ++q) {
    if (interruptions.is_told()) throw Interrupted();
    const int64_t begin = codes.offsets[q], end = codes.offsets[q + 1];
    append_rows_of(postings, codes.hits.data() + begin, static_cast<size_t>(end - begin), options.mask, found.hits);
    found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
  }
  return found;
}

}  // namespace athsearch
