// Blocks, threads, masks and merging, written once for every kernel.
//
// The database's rows are cut into blocks that fit the L1 cache; threads fetch the next few blocks whenever they are
// free, and show each block to all queries: it is prepared once and read from cache by every query of the group. A
// thread's blocks ascend, so ties resolve by order of arrival, and threads merge by sorting integers. The answer cannot
// depend on who took which block.
#include "scanner.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "pool.h"
#include "topk.h"

namespace athsearch {

namespace {

constexpr uint64_t kBlockBytes = 24 * 1024;     // of a 32 KiB L1 cache, leaving room for queries and hits
constexpr uint64_t kQueriesToPrepare = 8;       // that a kernel's own layout must serve to be worth making
constexpr uint64_t kWordsPerThread = 1u << 17;  // a thread takes some microseconds to wake: so many words' comparing
constexpr uint64_t kWordsPerFetch = 1u << 15;   // compared before a thread fetches its next blocks
constexpr uint64_t kWordsPerLook = 1u << 23;    // compared before the clock is asked whether to ask for interruptions
constexpr std::chrono::milliseconds kLookEvery(50);
constexpr uint64_t kHitsPerGroup = 1u << 23;  // bounds the memory of what is kept: 64 MiB a thread

struct RowRange {
  const uint64_t* words;  // of its first row
  uint64_t n_rows;
  uint64_t first_row;  // within the database
};

// A database's blocks by number; none crosses from one segment into the next.
class Blocks {
 public:
  Blocks(const Database& database, const Preparation* preparation) : database_(database) {
    const size_t row_bytes =
        preparation == nullptr ? 8 * database.n_words() : preparation->bytes_per_byte * database.n_bytes();
    block_rows_ = std::max<uint64_t>(1, kBlockBytes / (row_bytes * kPartRows)) * kPartRows;
    uint64_t first_row = 0;
    for (const Segment& segment : database.segments) {
      first_block_.push_back(n_blocks_);
      first_row_.push_back(first_row);
      n_blocks_ += (segment.n_rows + block_rows_ - 1) / block_rows_;
      first_row += segment.n_rows;
    }
  }

  uint64_t n_blocks() const { return n_blocks_; }
  uint64_t block_words() const { return block_rows_ * database_.n_words(); }

  RowRange operator[](uint64_t block) const {
    // The last segment that begins at or before this block; empty ones begin where the next one does.
    const auto after = std::upper_bound(first_block_.begin(), first_block_.end(), block);
    const auto number = static_cast<size_t>(after - first_block_.begin()) - 1;
    const Segment& segment = database_.segments[number];
    const uint64_t begin = (block - first_block_[number]) * block_rows_;
    return {segment.words + begin * database_.n_words(), std::min(block_rows_, segment.n_rows - begin),
            first_row_[number] + begin};
  }

 private:
  const Database& database_;
  uint64_t block_rows_;
  uint64_t n_blocks_ = 0;
  std::vector<uint64_t> first_block_, first_row_;  // of each segment
};

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

struct alignas(64) CacheLine {
  uint8_t bytes[64];
};

// One thread's buffers: a block in the layout that its kernel scans, and the kernel's hits in it.
class Workspace {
 public:
  // preparation: null for the layout word by word.
  Workspace(const Database& database, const Options& options, const Preparation* preparation)
      : n_words_(database.n_words()), n_bytes_(database.n_bytes()), options_(options), preparation_(preparation) {}

  void load(const RowRange& range) {
    range_ = range;
    hits_.resize(range.n_rows + kHitSlack);
    if (preparation_ != nullptr) {
      const uint64_t n_parts = (range.n_rows + kPartRows - 1) / kPartRows;
      prepared_.resize(n_parts * kPartRows * preparation_->bytes_per_byte * n_bytes_ / sizeof(CacheLine));
      preparation_->prepare(range.words, range.n_rows, n_words_, n_bytes_, prepared_.data()->bytes);
    } else if (is_copied()) {
      words_.resize(range.n_rows * n_words_);
      for (size_t row = 0; row < range.n_rows; ++row)
        for (size_t word = 0; word < n_words_; ++word)
          words_[word * range.n_rows + row] = range.words[row * n_words_ + word];
    }
  }

  uint64_t n_rows() const { return range_.n_rows; }

  // Calls take(hit) for each allowed hit of the block among rows begin to end - 1, rows ascending; begin is a multiple
  // of kPartRows.
  template <class Take>
  void scan(const uint64_t* query, uint64_t radius, uint64_t begin, uint64_t end, Take take) {
    const size_t n_hits = scan_all(query, radius, begin, end);
    for (size_t i = 0; i < n_hits; ++i)
      if (is_allowed(options_.mask, hit_row(hits_[i]))) take(hits_[i]);
  }

 private:
  size_t scan_all(const uint64_t* query, uint64_t radius, uint64_t begin, uint64_t end) {
    const uint64_t n_rows = end - begin, first_row = range_.first_row + begin;
    if (preparation_ != nullptr) {
      const uint8_t* bytes = prepared_.data()->bytes + begin * preparation_->bytes_per_byte * n_bytes_;
      return preparation_->within(query, {bytes, n_bytes_, n_rows, first_row}, radius, hits_.data());
    }
    const uint64_t* words = is_copied() ? words_.data() : range_.words;
    const bool is_in_columns = options_.kernel->layout == Layout::kColumns;
    const Block part = {words + begin * (is_in_columns ? 1 : n_words_), is_in_columns ? range_.n_rows : n_words_,
                        n_words_, n_rows, first_row};
    return options_.kernel->within(query, part, radius, hits_.data());
  }

  bool is_copied() const { return n_words_ > 1 && options_.kernel->layout == Layout::kColumns; }

  size_t n_words_, n_bytes_;
  const Options& options_;
  const Preparation* preparation_;
  RowRange range_{};
  std::vector<uint64_t> words_;
  std::vector<CacheLine> prepared_;
  std::vector<Hit> hits_;
};

// How the kernel wants rows laid out that so many queries share; null: word by word.
const Preparation* preparation_for(size_t n_queries, const Options& options) {
  return n_queries < kQueriesToPrepare ? nullptr : options.kernel->preparation;
}

unsigned useful_threads(const Blocks& blocks, size_t n_queries, unsigned threads) {
  const uint64_t work = blocks.n_blocks() * blocks.block_words() * n_queries;
  const uint64_t useful = std::min(work / kWordsPerThread + 1, std::max<uint64_t>(blocks.n_blocks(), 1));
  return static_cast<unsigned>(std::min<uint64_t>(std::max(threads, 1u), useful));
}

// Shows every block that holds an allowed row to `visit(thread, workspace)`, blocks ascending within a thread. Throws
// Interrupted.
template <class Visit>
void for_each_block(const Database& database, const Blocks& blocks, const Preparation* preparation, size_t n_queries,
                    unsigned n_threads, const Options& options, Visit visit) {
  const uint64_t words_a_block = std::max<uint64_t>(1, blocks.block_words() * n_queries);
  const uint64_t n_fetched = std::max<uint64_t>(1, kWordsPerFetch / words_a_block);
  std::atomic<uint64_t> next{0};
  std::atomic<bool> is_stopped{false};
  run_parallel(n_threads, [&](unsigned thread) {
    using Clock = std::chrono::steady_clock;
    Workspace workspace(database, options, preparation);
    Clock::time_point last_look = Clock::now();
    uint64_t n_compared = 0;
    for (;;) {
      const uint64_t begin = next.fetch_add(n_fetched, std::memory_order_relaxed);
      if (begin >= blocks.n_blocks() || is_stopped.load(std::memory_order_relaxed)) return;
      for (uint64_t block = begin; block < std::min(begin + n_fetched, blocks.n_blocks()); ++block) {
        const RowRange range = blocks[block];
        if (!is_any_allowed(options.mask, range.first_row, range.first_row + range.n_rows)) continue;
        workspace.load(range);
        visit(thread, workspace);
      }
      n_compared += n_fetched * words_a_block;
      if (thread != 0 || options.is_interrupted == nullptr || n_compared < kWordsPerLook) continue;
      n_compared = 0;
      if (Clock::now() < last_look + kLookEvery) continue;
      if (options.is_interrupted()) {
        is_stopped.store(true, std::memory_order_relaxed);
        throw Interrupted();
      }
      last_look = Clock::now();
    }
  });
}

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

}  // namespace

uint64_t Database::n_rows() const {
  uint64_t n_rows = 0;
  for (const Segment& segment : segments) n_rows += segment.n_rows;
  return n_rows;
}

Found top_k(const Database& database, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties) {
  const uint64_t largest_distance = 64 * database.n_words();
  const uint64_t n_kept = 4 * std::min(k, database.n_rows()) + 128 + largest_distance;  // see TopK: a vector may double
  const size_t group_size = std::max<uint64_t>(1, kHitsPerGroup / n_kept);
  const Preparation* preparation = preparation_for(std::min(group_size, queries.n_queries), options);
  const Blocks blocks(database, preparation);
  const uint64_t beyond = n_ties == nullptr ? 0 : 1;  // ties with the k-th lie one past the distance that still enters
  Found found;
  found.offsets.push_back(0);
  for (size_t first = 0; first < queries.n_queries; first += group_size) {
    const size_t n_group = std::min(group_size, queries.n_queries - first);
    const uint64_t* group = queries.words + first * database.n_words();
    const unsigned n_threads = useful_threads(blocks, n_group, options.threads);
    std::vector<std::vector<TopK>> best(n_threads, std::vector<TopK>(n_group, TopK(k, largest_distance)));
    for_each_block(
        database, blocks, preparation, n_group, n_threads, options, [&](unsigned thread, Workspace& workspace) {
          for (size_t q = 0; q < n_group; ++q) {
            TopK& top = best[thread][q];
            // While there are no k hits everything is one, so the first steps are small.
            uint64_t begin = 0, step = top.is_full() ? workspace.n_rows() : kPartRows;
            while (begin < workspace.n_rows() && (top.is_open() || beyond)) {
              const uint64_t end = std::min(begin + step, workspace.n_rows());
              const uint64_t radius = top.is_open() ? top.radius() + beyond : 0;
              workspace.scan(group + q * database.n_words(), radius, begin, end, [&](Hit hit) { top.offer(hit); });
              begin = end;
              step *= 2;
            }
          }
        });
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
  if (queries.n_queries == 0) return {{0}, {}};
  const Preparation* preparation = preparation_for(queries.n_queries, options);
  const Blocks blocks(database, preparation);
  const unsigned n_threads = useful_threads(blocks, queries.n_queries, options.threads);
  std::vector<std::vector<std::vector<Hit>>> lists(n_threads, std::vector<std::vector<Hit>>(queries.n_queries));
  for_each_block(database, blocks, preparation, queries.n_queries, n_threads, options,
                 [&](unsigned thread, Workspace& workspace) {
                   for (size_t q = 0; q < queries.n_queries; ++q)
                     workspace.scan(queries.words + q * database.n_words(), radius, 0, workspace.n_rows(),
                                    [&](Hit hit) { lists[thread][q].push_back(hit); });
                 });
  Found found;
  found.offsets.push_back(0);
  for (size_t q = 0; q < queries.n_queries; ++q) {
    std::vector<std::vector<Hit>> sorted;
    for (std::vector<std::vector<Hit>>& per_query : lists) {
      sorted.push_back(sorted_by_distance(per_query[q], 64 * database.n_words() + 1));
      std::vector<Hit>().swap(per_query[q]);
    }
    append_merged(std::move(sorted), ~uint64_t{0}, found);
  }
  return found;
}

}  // namespace athsearch
