// Blocks, threads, masks and merging, written once for every kernel.
//
// The database's rows are cut into blocks that fit the L1 cache and each thread takes a contiguous run of them, for all
// queries: a block is prepared once and read from cache by every query of the group. Rows ascend within a thread, so
// ties resolve by order of arrival; threads merge by sorting integers. The answer cannot depend on the split.
#include "scanner.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "topk.h"

namespace athsearch {

namespace {

constexpr size_t kBlockBytes = 16 * 1024;       // half an L1 cache, leaving room for the hits
constexpr uint64_t kWordsPerThread = 1u << 19;  // a thread costs about as much as comparing so many words
constexpr uint64_t kHitsPerGroup = 1u << 22;    // bounds the memory of the heaps: 32 MiB a thread

struct RowRange {
  const Segment* segment;
  uint64_t begin;      // within the segment
  uint64_t n_rows;     // of this block
  uint64_t first_row;  // within the database
};

std::vector<RowRange> cut_into_blocks(const Database& database) {
  const uint64_t block_rows = std::max<uint64_t>(64, kBlockBytes / (8 * database.n_words));
  std::vector<RowRange> blocks;
  uint64_t first_row = 0;
  for (const Segment& segment : database.segments) {
    for (uint64_t begin = 0; begin < segment.n_rows; begin += block_rows)
      blocks.push_back({&segment, begin, std::min(block_rows, segment.n_rows - begin), first_row + begin});
    first_row += segment.n_rows;
  }
  return blocks;
}

bool is_allowed(const uint64_t* mask, uint64_t row) { return mask == nullptr || (mask[row / 64] >> (row % 64) & 1); }

bool is_any_allowed(const uint64_t* mask, uint64_t begin, uint64_t end) {
  if (mask == nullptr) return true;
  const uint64_t first_word = begin / 64, last_word = (end - 1) / 64;
  for (uint64_t word = first_word; word <= last_word; ++word) {
    uint64_t bits = mask[word];
    if (word == first_word) bits &= ~uint64_t{0} << (begin % 64);
    if (word == last_word) bits &= ~uint64_t{0} >> (63 - (end - 1) % 64);
    if (bits) return true;
  }
  return false;
}

// One thread's buffers: a block laid out word by word, and a kernel's hits in it.
class Workspace {
 public:
  Workspace(size_t n_words, const Options& options) : n_words_(n_words), options_(options) {}

  void load(const RowRange& range) {
    hits_.resize(range.n_rows + kHitSlack);
    const uint64_t* rows = range.segment->words + range.begin * n_words_;
    block_ = {rows, range.n_rows, n_words_, range.n_rows, range.first_row};
    if (n_words_ == 1) return;
    words_.resize(range.n_rows * n_words_);
    for (size_t row = 0; row < range.n_rows; ++row)
      for (size_t word = 0; word < n_words_; ++word) words_[word * range.n_rows + row] = rows[row * n_words_ + word];
    block_.words = words_.data();
  }

  // Calls take(hit) for each allowed hit of the loaded block, rows ascending.
  template <class Take>
  void scan(const uint64_t* query, uint64_t radius, Take take) {
    const size_t n_hits = options_.kernel->within(query, block_, radius, hits_.data());
    for (size_t i = 0; i < n_hits; ++i)
      if (is_allowed(options_.mask, hit_row(hits_[i]))) take(hits_[i]);
  }

 private:
  size_t n_words_;
  const Options& options_;
  Block block_{};
  std::vector<uint64_t> words_;
  std::vector<Hit> hits_;
};

unsigned useful_threads(const Database& database, size_t n_queries, size_t n_blocks, unsigned threads) {
  const uint64_t work = database.n_rows() * database.n_words * n_queries;
  const uint64_t useful = std::min<uint64_t>(work / kWordsPerThread + 1, std::max<size_t>(n_blocks, 1));
  return static_cast<unsigned>(std::min<uint64_t>(std::max(threads, 1u), useful));
}

// Runs body(thread) on n_threads threads, this one among them, and rethrows the first exception of any.
template <class Body>
void run_threads(unsigned n_threads, Body body) {
  std::vector<std::exception_ptr> errors(n_threads);
  auto guarded = [&](unsigned thread) {
    try {
      body(thread);
    } catch (...) {
      errors[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(n_threads);
  try {
    for (unsigned thread = 1; thread < n_threads; ++thread) threads.emplace_back(guarded, thread);
  } catch (...) {
    // The system refused a thread: its part, and the parts after it, run here instead.
    for (unsigned thread = static_cast<unsigned>(threads.size()) + 1; thread < n_threads; ++thread) guarded(thread);
  }
  guarded(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

// Shows every block that holds an allowed row to `visit(thread, workspace)`, blocks ascending within a thread.
template <class Visit>
void for_each_block(const Database& database, const std::vector<RowRange>& blocks, unsigned n_threads,
                    const Options& options, Visit visit) {
  run_threads(n_threads, [&](unsigned thread) {
    Workspace workspace(database.n_words, options);
    const size_t begin = blocks.size() * thread / n_threads, end = blocks.size() * (thread + 1) / n_threads;
    for (size_t i = begin; i < end; ++i) {
      if (!is_any_allowed(options.mask, blocks[i].first_row, blocks[i].first_row + blocks[i].n_rows)) continue;
      workspace.load(blocks[i]);
      visit(thread, workspace);
    }
  });
}

}  // namespace

uint64_t Database::n_rows() const {
  uint64_t n_rows = 0;
  for (const Segment& segment : segments) n_rows += segment.n_rows;
  return n_rows;
}

Found top_k(const Database& database, const Queries& queries, uint64_t k, const Options& options) {
  const std::vector<RowRange> blocks = cut_into_blocks(database);
  const uint64_t largest_distance = 64 * database.n_words;
  const uint64_t n_kept = std::max<uint64_t>(1, std::min(k, database.n_rows()));
  const size_t group_size = std::max<uint64_t>(1, kHitsPerGroup / n_kept);
  Found found;
  found.offsets.push_back(0);
  for (size_t first = 0; first < queries.n_queries; first += group_size) {
    const size_t n_group = std::min(group_size, queries.n_queries - first);
    const uint64_t* group = queries.words + first * database.n_words;
    const unsigned n_threads = useful_threads(database, n_group, blocks.size(), options.threads);
    std::vector<std::vector<TopK>> best(n_threads, std::vector<TopK>(n_group, TopK(k, largest_distance)));
    for_each_block(database, blocks, n_threads, options, [&](unsigned thread, Workspace& workspace) {
      for (size_t q = 0; q < n_group; ++q) {
        TopK& top = best[thread][q];
        if (top.is_open()) workspace.scan(group + q * database.n_words, top.radius(), [&](Hit hit) { top.offer(hit); });
      }
    });
    for (size_t q = 0; q < n_group; ++q) {
      const auto begin = static_cast<std::ptrdiff_t>(found.hits.size());
      for (const std::vector<TopK>& per_query : best)
        found.hits.insert(found.hits.end(), per_query[q].hits().begin(), per_query[q].hits().end());
      std::sort(found.hits.begin() + begin, found.hits.end());
      const uint64_t n_merged = found.hits.size() - static_cast<uint64_t>(begin);
      found.hits.resize(static_cast<size_t>(begin) + std::min(k, n_merged));
      found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
    }
  }
  return found;
}

Found within(const Database& database, const Queries& queries, uint64_t radius, const Options& options) {
  const std::vector<RowRange> blocks = cut_into_blocks(database);
  const unsigned n_threads = useful_threads(database, queries.n_queries, blocks.size(), options.threads);
  std::vector<std::vector<std::vector<Hit>>> lists(n_threads, std::vector<std::vector<Hit>>(queries.n_queries));
  for_each_block(database, blocks, n_threads, options, [&](unsigned thread, Workspace& workspace) {
    for (size_t q = 0; q < queries.n_queries; ++q)
      workspace.scan(queries.words + q * database.n_words, radius, [&](Hit hit) { lists[thread][q].push_back(hit); });
  });
  Found found;
  found.offsets.push_back(0);
  for (size_t q = 0; q < queries.n_queries; ++q) {
    const auto begin = static_cast<std::ptrdiff_t>(found.hits.size());
    for (std::vector<std::vector<Hit>>& per_query : lists) {
      found.hits.insert(found.hits.end(), per_query[q].begin(), per_query[q].end());
      std::vector<Hit>().swap(per_query[q]);
    }
    std::sort(found.hits.begin() + begin, found.hits.end());
    found.offsets.push_back(static_cast<int64_t>(found.hits.size()));
  }
  return found;
}

std::vector<int64_t> count_ties(const Database& database, const Queries& queries, const Found& found,
                                const Options& options) {
  const std::vector<RowRange> blocks = cut_into_blocks(database);
  const unsigned n_threads = useful_threads(database, queries.n_queries, blocks.size(), options.threads);
  std::vector<std::vector<int64_t>> counts(n_threads, std::vector<int64_t>(queries.n_queries, 0));
  for_each_block(database, blocks, n_threads, options, [&](unsigned thread, Workspace& workspace) {
    for (size_t q = 0; q < queries.n_queries; ++q) {
      if (found.offsets[q] == found.offsets[q + 1]) continue;
      const uint64_t last = hit_distance(found.hits[static_cast<size_t>(found.offsets[q + 1]) - 1]);
      workspace.scan(queries.words + q * database.n_words, last,
                     [&](Hit hit) { counts[thread][q] += hit_distance(hit) == last; });
    }
  });
  for (unsigned thread = 1; thread < n_threads; ++thread)
    for (size_t q = 0; q < queries.n_queries; ++q) counts[0][q] += counts[thread][q];
  return counts[0];
}

}  // namespace athsearch
