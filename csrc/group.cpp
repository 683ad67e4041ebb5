// Distinct codes by hashing: rows are scattered into partitions by their codes' hashes, so that equal codes meet in
// one, and each partition, small enough for a cache, is grouped by a hash table of its own.
//
// Memory traffic: the codes are read three times and written once, their rows are written twice and read once; at 64
// bits 44 bytes a row, besides the distinct codes.
#include <algorithm>
#include <atomic>
#include <utility>

#include "distinct.h"
#include "pool.h"

namespace athsearch {

namespace {

constexpr uint64_t kRowsPerPartition = 1u << 15;
constexpr unsigned kMostPartitionBits = 10;  // more would have too many places written at once
constexpr uint64_t kRowsPerTask = 1u << 18;
constexpr uint32_t kNone = ~uint32_t{0};

uint64_t hash_of(const uint64_t* code, size_t n_words) {
  uint64_t hash = 0;
  for (size_t word = 0; word < n_words; ++word) {
    hash = (hash ^ code[word]) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  hash *= 0xd6e8feb86659fd93u;
  return hash ^ hash >> 32;
}

// Shares tasks 0 to n_tasks - 1 out to threads; throws Interrupted.
template <class Run>
void for_each_task(size_t n_tasks, unsigned threads, bool (*is_interrupted)(), Run run) {
  std::atomic<size_t> next{0};
  std::atomic<bool> is_stopped{false};
  const auto n_threads = static_cast<unsigned>(std::min<size_t>(std::max(threads, 1u), std::max<size_t>(n_tasks, 1)));
  run_parallel(n_threads, [&](unsigned thread) {
    for (size_t task = next++; task < n_tasks && !is_stopped; task = next++) {
      run(task);
      if (thread != 0 || is_interrupted == nullptr || !is_interrupted()) continue;
      is_stopped = true;
      throw Interrupted();
    }
  });
}

// Groups one partition's codes.
class Grouper {
 public:
  explicit Grouper(size_t n_words) : n_words_(n_words) {}

  // codes: row-major [n, n_words]; rows [n], ascending. Sorts the rows by the first appearance of their code, moves the
  // distinct codes to the front in that order, and returns the number of rows of each.
  std::vector<uint32_t> group(uint64_t* codes, uint32_t* rows, size_t n) {
    table_.assign(64, kNone);
    firsts_.clear();
    group_of_.resize(n);
    for (size_t i = 0; i < n; ++i) {
      uint32_t& slot = slot_of(codes, codes + i * n_words_);
      if (slot == kNone) {
        slot = static_cast<uint32_t>(firsts_.size());
        firsts_.push_back(static_cast<uint32_t>(i));
      }
      group_of_[i] = slot;
      if (2 * firsts_.size() > table_.size()) grow(codes);
    }
    std::vector<uint32_t> counts(firsts_.size());
    for (size_t i = 0; i < n; ++i) ++counts[group_of_[i]];
    next_.resize(firsts_.size());
    uint32_t begin = 0;
    for (size_t group = 0; group < firsts_.size(); ++group) {
      next_[group] = begin;
      begin += counts[group];
      const uint64_t* code = codes + firsts_[group] * n_words_;
      std::copy(code, code + n_words_, codes + group * n_words_);
    }
    sorted_.resize(n);
    for (size_t i = 0; i < n; ++i) sorted_[next_[group_of_[i]]++] = rows[i];
    std::copy(sorted_.begin(), sorted_.end(), rows);
    return counts;
  }

 private:
  // Where the table has this code's group, or kNone where it would be.
  uint32_t& slot_of(const uint64_t* codes, const uint64_t* code) {
    const size_t last = table_.size() - 1;
    for (size_t at = hash_of(code, n_words_) & last;; at = (at + 1) & last) {
      const uint32_t group = table_[at];
      if (group == kNone || std::equal(code, code + n_words_, codes + firsts_[group] * n_words_)) return table_[at];
    }
  }

  void grow(const uint64_t* codes) {
    table_.assign(4 * table_.size(), kNone);
    for (size_t group = 0; group < firsts_.size(); ++group)
      slot_of(codes, codes + firsts_[group] * n_words_) = static_cast<uint32_t>(group);
  }

  size_t n_words_;
  std::vector<uint32_t> table_;   // open addressing: groups
  std::vector<uint32_t> firsts_;  // of each group: the position of its first code
  std::vector<uint32_t> group_of_, next_, sorted_;
};

// A stretch of rows of one segment.
struct Task {
  const uint64_t* words;
  uint64_t n_rows;
  uint64_t first_row;
};

std::vector<Task> tasks_of(const Database& database) {
  std::vector<Task> tasks;
  uint64_t first_row = 0;
  for (const Segment& segment : database.segments) {
    for (uint64_t begin = 0; begin < segment.n_rows; begin += kRowsPerTask)
      tasks.push_back({segment.words + begin * database.n_words(), std::min(kRowsPerTask, segment.n_rows - begin),
                       first_row + begin});
    first_row += segment.n_rows;
  }
  return tasks;
}

}  // namespace

Grouped group(const Database& database, unsigned threads, bool (*is_interrupted)()) {
  const uint64_t n_rows = database.n_rows();
  const size_t n_words = database.n_words();
  unsigned partition_bits = 0;
  while (partition_bits < kMostPartitionBits && n_rows >> partition_bits > kRowsPerPartition) ++partition_bits;
  const size_t n_partitions = size_t{1} << partition_bits;
  const auto partition_of = [&](const uint64_t* code) {
    return partition_bits == 0 ? 0 : static_cast<size_t>(hash_of(code, n_words) >> (64 - partition_bits));
  };

  // How many rows of each task fall into each partition, then where they begin.
  const std::vector<Task> tasks = tasks_of(database);
  std::vector<uint64_t> places(tasks.size() * n_partitions);
  for_each_task(tasks.size(), threads, is_interrupted, [&](size_t task) {
    uint64_t* counts = places.data() + task * n_partitions;
    for (uint64_t row = 0; row < tasks[task].n_rows; ++row) ++counts[partition_of(tasks[task].words + row * n_words)];
  });
  std::vector<uint64_t> begins;
  uint64_t place = 0;
  for (size_t partition = 0; partition < n_partitions; ++partition) {
    begins.push_back(place);
    for (size_t task = 0; task < tasks.size(); ++task)
      place += std::exchange(places[task * n_partitions + partition], place);
  }
  begins.push_back(place);

  Grouped grouped;
  std::vector<uint64_t>& words = grouped.words;
  grouped.rows.resize(n_rows);
  words.resize(n_rows * n_words);
  for_each_task(tasks.size(), threads, is_interrupted, [&](size_t task) {
    uint64_t* next = places.data() + task * n_partitions;
    for (uint64_t row = 0; row < tasks[task].n_rows; ++row) {
      const uint64_t* code = tasks[task].words + row * n_words;
      const uint64_t to = next[partition_of(code)]++;
      std::copy(code, code + n_words, words.data() + to * n_words);
      grouped.rows[to] = static_cast<uint32_t>(tasks[task].first_row + row);
    }
  });

  std::vector<std::vector<uint32_t>> counts(n_partitions);
  for_each_task(n_partitions, threads, is_interrupted, [&](size_t partition) {
    const uint64_t begin = begins[partition], n = begins[partition + 1] - begin;
    counts[partition] = Grouper(n_words).group(words.data() + begin * n_words, grouped.rows.data() + begin, n);
  });

  size_t n_codes = 0;
  for (const std::vector<uint32_t>& of_partition : counts) n_codes += of_partition.size();
  grouped.offsets.reserve(n_codes + 1);
  grouped.offsets.push_back(0);
  auto end = words.begin();
  for (size_t partition = 0; partition < n_partitions; ++partition) {
    const auto from = words.begin() + static_cast<std::ptrdiff_t>(begins[partition] * n_words);
    const auto n_kept = static_cast<std::ptrdiff_t>(counts[partition].size() * n_words);
    end = from == end ? end + n_kept : std::copy(from, from + n_kept, end);
    for (const uint32_t count : counts[partition]) grouped.offsets.push_back(grouped.offsets.back() + count);
    std::vector<uint32_t>().swap(counts[partition]);
  }
  words.erase(end, words.end());
  words.shrink_to_fit();
  return grouped;
}

}  // namespace athsearch
