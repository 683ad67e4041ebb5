// The first hits of a search in a finer order: that of the query's real values against the stored bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scanner.h"

namespace athsearch {

// Where a database's codes lie, by row.
class RowCodes {
 public:
  explicit RowCodes(const Database& database);
  // uint64 [n_words]; the row must be one of the database's.
  const uint64_t* operator[](uint64_t row) const;

 private:
  const Database& database_;
  std::vector<uint64_t> first_rows_;  // of each segment
};

// Writes a query's real values u as round(u * (32767 / max |u|)), computed in double, halves to even: the same on every
// machine. All zeros stay zeros. Returns false where a value is not finite.
bool quantise(const float* values, size_t n_bits, int16_t* weights);

// What is to be ordered: for query q, candidates offsets[q] to offsets[q + 1] - 1, ascending by (distance, row).
struct Candidates {
  const uint64_t* words;   // of their codes, row-major [n_candidates, n_words]
  const int64_t* offsets;  // [n_queries + 1]
  size_t n_queries;
  size_t n_bits;
};

// For query q: places among all candidates, and scores, offsets[q] to offsets[q + 1] - 1.
struct Reranked {
  std::vector<int64_t> offsets;
  std::vector<int64_t> places;
  std::vector<int32_t> scores;
};

// The first k candidates of each query, or all if there are fewer, ordered by (score descending, distance, row). A
// score is the sum over bits of the query's weight, or minus it where the stored bit is 0: an integer, and below 2^27
// for 4096 bits, the most there are. weights: row-major [n_queries, n_bits], none -32768. Takes tens of milliseconds
// for a million candidates and asks nobody whether to go on.
Reranked rerank(const Candidates& candidates, const int16_t* weights, uint64_t k, unsigned threads);

}  // namespace athsearch
