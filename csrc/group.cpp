// Distinct codes by hashing: rows are scattered into partitions by their codes' hashes, so that equal codes meet in
// one, and each partition, small enough for a cache, is grouped by a hash table of its own.
//
// Memory traffic: the codes are read three times and written once, their rows are written twice and read once; at 64
// bits 44 bytes a row, besides the distinct codes.
#include <algorithm>
#include <utility>

#include "distinct.h"
#include "partition.h"

namespace athsearch {

namespace {

constexpr uint64_t kRowsPerPartition = 1u << 15;
constexpr unsigned kMostPartitionBits = 10;  // more would have too many places written at once
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
      copy_code(code, n_words_, codes + group * n_words_);
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
  Buffer<uint64_t> words(n_rows * n_words);
  Buffer<uint32_t> rows(n_rows);
  const std::vector<uint64_t> begins =
      partition(database, n_partitions, partition_of, words.data(), rows.data(), threads, is_interrupted);

  std::vector<std::vector<uint32_t>> counts(n_partitions);
  for_each_task(n_partitions, threads, is_interrupted, [&](size_t partition) {
    const uint64_t begin = begins[partition], n = begins[partition + 1] - begin;
    counts[partition] = Grouper(n_words).group(words.data() + begin * n_words, rows.data() + begin, n);
  });

  size_t n_codes = 0;
  for (const std::vector<uint32_t>& of_partition : counts) n_codes += of_partition.size();
  Grouped grouped{Buffer<uint64_t>(n_codes * n_words), Buffer<int64_t>(n_codes + 1), std::move(rows)};
  uint64_t* to = grouped.words.data();
  int64_t* offset = grouped.offsets.data();
  *offset = 0;
  for (size_t partition = 0; partition < n_partitions; ++partition) {
    const uint64_t* from = words.data() + begins[partition] * n_words;
    to = std::copy(from, from + counts[partition].size() * n_words, to);
    for (const uint32_t count : counts[partition]) {
      offset[1] = *offset + count;
      ++offset;
    }
    std::vector<uint32_t>().swap(counts[partition]);
  }
  return grouped;
}

}  // namespace athsearch
