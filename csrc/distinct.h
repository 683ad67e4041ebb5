// Exact search whose cost follows the number of distinct codes: each is compared once, whatever number of rows carry
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "scanner.h"

namespace athsearch {

// Rows are numbered and counted in 32 bits here.
constexpr uint64_t kMostDistinctRows = 0xffffffff;

// The codes that are compared, and the rows that carry each: those of code c are rows[offsets[c]] to
// rows[offsets[c + 1] - 1], ascending. Without offsets each code is a row of its own, the one of its number.
struct Postings {
  Database codes;
  const int64_t* offsets;  // [n_codes + 1], or null
  const uint32_t* rows;    // [n_rows], or null
  uint64_t n_rows;
};

// What is searched came from a file that holds something else than was written.
struct Damaged {};

// Distinct codes, in no particular order, with the memory that holds them.
struct Grouped {
  Buffer<uint64_t> words;  // row-major [n_codes, n_words]
  Buffer<int64_t> offsets;
  Buffer<uint32_t> rows;
};

// Finds the distinct codes. The result does not depend on the number of threads. n_rows: at most kMostDistinctRows.
// Throws Interrupted.
Grouped group(const Database& database, unsigned threads, bool (*is_interrupted)());

// As the searches of a flat database; options.mask is about rows. Found::codes can be asked for where there are
// offsets.
Found top_k(const Postings& postings, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties = nullptr);
Found within(const Postings& postings, const Queries& queries, uint64_t radius, const Options& options);

}  // namespace athsearch
