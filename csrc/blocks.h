// One pass of a group of queries over a database: its rows are cut into blocks that fit the L1 cache; threads fetch the
// next few blocks whenever they are free, and show each block to all queries: it is prepared once and read from cache
// by every query of the group.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "pool.h"
#include "scanner.h"

namespace athsearch {

// While a query has not found k hits every row is one, so its first steps are of so many rows, and twice as many, ...
constexpr uint64_t kFirstStep = 128;

struct RowRange {
  const uint64_t* words;  // of its first row
  uint64_t n_rows;
  uint64_t first_row;  // within the database
};

// A database's blocks by number; none crosses from one segment into the next.
class Blocks {
 public:
  Blocks(const Database& database, const Preparation* preparation, uint64_t block_bytes) : database_(database) {
    uint64_t part_rows = kFirstStep, part_bytes = kFirstStep * 8 * database.n_words();
    if (preparation != nullptr) {
      part_rows = preparation->part_rows(database.n_bits);
      part_bytes = preparation->n_bytes(database.n_bits);
    }
    block_rows_ = std::max<uint64_t>(1, block_bytes / part_bytes) * part_rows;
    uint64_t first_row = database.first_row;
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

struct alignas(64) CacheLine {
  uint8_t bytes[64];
};

// One thread's buffers: a block in the layout that its kernel scans, and the kernel's hits in it.
class Workspace {
 public:
  // preparation: null for the layout that the kernel's `within` takes. plan: what it planned of the queries.
  Workspace(const Database& database, const Options& options, const Preparation* preparation, const uint8_t* plan)
      : n_words_(database.n_words()),
        n_bits_(database.n_bits),
        options_(options),
        preparation_(preparation),
        plan_(plan),
        part_rows_(preparation == nullptr ? 0 : preparation->part_rows(database.n_bits)) {
    if (preparation != nullptr) asked_.reset(new PartQueries);  // not zeroed, as make_unique does
  }

  void load(const RowRange& range) {
    range_ = range;
    hits_.resize(range.n_rows + kHitSlack);
    if (!is_copied()) return;
    words_.resize(range.n_rows * n_words_);
    for (size_t row = 0; row < range.n_rows; ++row)
      for (size_t word = 0; word < n_words_; ++word)
        words_[word * range.n_rows + row] = range.words[row * n_words_ + word];
  }

  uint64_t n_rows() const { return range_.n_rows; }
  uint64_t first_row() const { return range_.first_row; }

  // Compares the block's rows with all queries, row-major [n_queries, n_words], the same ones for every block. Calls
  // take(query, hit) for its hits, rows ascending for each query. radius(query): at what distance a hit is still
  // wanted, -1 for none; is asked now and then, and changes only by take(). is_narrow(query): whether hits are few by
  // now.
  template <class Radius, class IsNarrow, class Take>
  void scan(const uint64_t* queries, size_t n_queries, Radius radius, IsNarrow is_narrow, Take take) {
    if (preparation_ != nullptr && are_all_narrow(n_queries, is_narrow))
      return scan_parts(queries, n_queries, radius, take);
    for (size_t q = 0; q < n_queries; ++q) {
      uint64_t begin = 0, step = is_narrow(q) ? range_.n_rows : kFirstStep;
      for (; begin < range_.n_rows; begin += step, step *= 2) {
        const int64_t within = radius(q);
        if (within < 0) break;
        const uint64_t n_rows = std::min(step, range_.n_rows - begin);
        const size_t n_hits = scan_rows(queries + q * n_words_, static_cast<uint64_t>(within), begin, n_rows);
        for (size_t i = 0; i < n_hits; ++i) take(q, hits_[i]);
      }
    }
  }

  // The same for one query and all hits within a radius; not in a layout of the kernel's own.
  template <class Take>
  void scan_one(const uint64_t* query, uint64_t radius, Take take) {
    const size_t n_hits = scan_rows(query, radius, 0, range_.n_rows);
    for (size_t i = 0; i < n_hits; ++i) take(hits_[i]);
  }

 private:
  // Counted up, for once a query is narrow it stays so.
  template <class IsNarrow>
  bool are_all_narrow(size_t n_queries, IsNarrow is_narrow) {
    while (n_narrow_ < n_queries && is_narrow(n_narrow_)) ++n_narrow_;
    return n_narrow_ == n_queries;
  }

  template <class Radius, class Take>
  void scan_parts(const uint64_t* queries, size_t n_queries, Radius radius, Take take) {
    for (size_t q = radii_.size(); q < n_queries; ++q) radii_.push_back(radius(q));
    for (uint64_t begin = 0; begin < range_.n_rows; begin += part_rows_) {
      const uint64_t* words = range_.words + begin * n_words_;
      const Part part = {words,
                         std::min<uint64_t>(part_rows_, range_.n_rows - begin),
                         n_bits_,
                         range_.first_row + begin,
                         place_beside(words),
                         following(words, 0, kPartQueries, n_queries)};
      preparation_->prepare(part);
      for (size_t first = 0; first < n_queries; first += kPartQueries) {
        asked_->words = queries + first * n_words_;
        asked_->plan = plan_ + first / kPartQueries * preparation_->n_plan_bytes(n_bits_, kPartQueries);
        asked_->radii = radii_.data() + first;
        asked_->n = std::min(kPartQueries, n_queries - first);
        asked_->ahead = following(words, kPartQueries + first, asked_->n, n_queries);
        preparation_->within(part, *asked_);
        for (size_t i = 0; i < asked_->n; ++i) {
          if (asked_->n_hits[i] == 0) continue;
          for (size_t hit = 0; hit < asked_->n_hits[i]; ++hit) take(first + i, asked_->hits[i][hit]);
          radii_[first + i] = radius(first + i);
        }
      }
    }
  }

  // A share of the rows that follow a part. Preparing it takes about as long as a batch of queries.
  Ahead following(const uint64_t* words, size_t first, size_t n, size_t n_queries) const {
    const size_t n_lines = part_rows_ * n_words_ * sizeof(uint64_t) / sizeof(CacheLine);
    const size_t n_shares = kPartQueries + n_queries;
    const size_t begin = n_lines * first / n_shares, end = n_lines * (first + n) / n_shares;
    return {reinterpret_cast<uintptr_t>(words) + (n_lines + begin) * sizeof(CacheLine), end - begin};
  }

  // Where a part whose rows are `words` is prepared: some way behind them within a page. Where both have the same place
  // in pages, processors take loads of rows for loads of what has just been stored (4K aliasing), and wait.
  uint8_t* place_beside(const uint64_t* words) {
    constexpr uintptr_t kPage = 4096, kBehind = 1536;
    prepared_.resize((preparation_->n_bytes(n_bits_) + kPage) / sizeof(CacheLine));
    auto* bytes = reinterpret_cast<uint8_t*>(prepared_.data());
    const uintptr_t apart = reinterpret_cast<uintptr_t>(words) + kBehind - reinterpret_cast<uintptr_t>(bytes);
    return bytes + apart % kPage / sizeof(CacheLine) * sizeof(CacheLine);
  }

  size_t scan_rows(const uint64_t* query, uint64_t radius, uint64_t begin, uint64_t n_rows) {
    const uint64_t* words = is_copied() ? words_.data() : range_.words;
    const bool is_in_columns = options_.kernel->layout == Layout::kColumns;
    const Block rows = {words + begin * (is_in_columns ? 1 : n_words_), is_in_columns ? range_.n_rows : n_words_,
                        n_words_, n_rows, range_.first_row + begin};
    return options_.kernel->within(query, rows, radius, hits_.data());
  }

  bool is_copied() const { return n_words_ > 1 && options_.kernel->layout == Layout::kColumns; }

  size_t n_words_, n_bits_;
  const Options& options_;
  const Preparation* preparation_;
  const uint8_t* plan_;
  size_t part_rows_;
  RowRange range_{};
  size_t n_narrow_ = 0;  // queries, the first ones
  std::vector<uint64_t> words_;
  std::vector<CacheLine> prepared_;
  std::unique_ptr<PartQueries> asked_;
  std::vector<int64_t> radii_;  // of all queries, kept together so that they stay in cache
  std::vector<Hit> hits_;
};

// Whether the mask, null for all, allows a row.
inline bool is_allowed(const uint64_t* mask, uint64_t row) {
  return mask == nullptr || (mask[row / 64] >> (row % 64) & 1);
}

// How many of the first n_rows rows a mask allows.
inline uint64_t n_allowed_by(const uint64_t* mask, uint64_t n_rows) {
  uint64_t n = 0;
  for (uint64_t word = 0; word < n_rows / 64; ++word) n += static_cast<uint64_t>(__builtin_popcountll(mask[word]));
  for (uint64_t row = n_rows / 64 * 64; row < n_rows; ++row) n += is_allowed(mask, row);
  return n;
}

// Asks about twenty times a second whether the search was told to stop; on the caller's thread only. One for a whole
// search: each begins with a pause, which short passes would not outlast.
class Interruptions {
 public:
  explicit Interruptions(const Options& options) : is_interrupted_(options.is_interrupted) {}

  bool is_told() {
    if (is_interrupted_ == nullptr || Clock::now() < last_look_ + std::chrono::milliseconds(50)) return false;
    const bool is_told = is_interrupted_();
    last_look_ = Clock::now();
    return is_told;
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool (*is_interrupted_)();
  Clock::time_point last_look_ = Clock::now();
};

// How many queries share a pass, so that what is kept of their hits stays within 64 MiB a thread.
inline size_t n_queries_at_once(const Database& database, uint64_t k) {
  constexpr uint64_t kMostHits = 1u << 23;
  const uint64_t n_kept = 4 * std::min(k, database.n_rows()) + 128 + 64 * database.n_words();  // vectors may double
  return std::max<uint64_t>(1, kMostHits / n_kept);
}

class Pass {
 public:
  Pass(const Database& database, const Queries& queries, const Options& options)
      : database_(database),
        options_(options),
        preparation_(preparation_for(database, queries.n_queries, *options.kernel)),
        blocks_(database, preparation_, options.block_bytes),
        block_work_(std::max<uint64_t>(1, blocks_.block_words() * queries.n_queries)) {
    if (preparation_ == nullptr) return;
    plan_.resize(preparation_->n_plan_bytes(database.n_bits, queries.n_queries) / sizeof(uint64_t));
    preparation_->plan(queries.words, queries.n_queries, database.n_bits, reinterpret_cast<uint8_t*>(plan_.data()));
  }

  // At most so many threads are used.
  unsigned n_threads() const {
    const uint64_t useful = blocks_.n_blocks() * block_work_ / kWordsPerThread + 1;
    const uint64_t most = std::min(useful, std::max<uint64_t>(blocks_.n_blocks(), 1));
    return static_cast<unsigned>(std::min<uint64_t>(std::max(options_.threads, 1u), most));
  }

  // Calls visit(thread, workspace) for every block whose RowRange is wanted(), blocks ascending within a thread; it
  // returns how much work it did beside comparing the block's words. Throws Interrupted.
  template <class Wanted, class Visit>
  void run(Interruptions& interruptions, Wanted wanted, Visit visit) const {
    const uint64_t n_fetched = std::max<uint64_t>(1, kWordsPerFetch / block_work_);
    std::atomic<uint64_t> next{0};
    std::atomic<bool> is_stopped{false};
    run_parallel(n_threads(), [&](unsigned thread) {
      Workspace workspace(database_, options_, preparation_, reinterpret_cast<const uint8_t*>(plan_.data()));
      uint64_t work = 0;  // since the last look
      for (;;) {
        const uint64_t begin = next.fetch_add(n_fetched, std::memory_order_relaxed);
        if (begin >= blocks_.n_blocks() || is_stopped.load(std::memory_order_relaxed)) return;
        for (uint64_t block = begin; block < std::min(begin + n_fetched, blocks_.n_blocks()); ++block) {
          const RowRange range = blocks_[block];
          if (!wanted(range)) continue;
          workspace.load(range);
          work += block_work_ + visit(thread, workspace);
          if (thread != 0 || work < kWorkPerLook) continue;
          work = 0;
          if (!interruptions.is_told()) continue;
          is_stopped.store(true, std::memory_order_relaxed);
          throw Interrupted();
        }
      }
    });
  }

 private:
  static const Preparation* preparation_for(const Database& database, size_t n_queries, const Kernel& kernel) {
    return kernel.preparation == nullptr ? nullptr : kernel.preparation(database.n_bits, n_queries);
  }

  static constexpr uint64_t kWordsPerThread = 1u << 17;  // compared while a thread wakes, which takes microseconds
  static constexpr uint64_t kWordsPerFetch = 1u << 15;   // compared before a thread fetches its next blocks
  static constexpr uint64_t kWorkPerLook = 1u << 20;     // done before the clock is asked whether it is time to look

  const Database& database_;
  const Options& options_;
  const Preparation* preparation_;
  Blocks blocks_;
  uint64_t block_work_;  // words compared in a block
  std::vector<uint64_t> plan_;
};

}  // namespace athsearch
