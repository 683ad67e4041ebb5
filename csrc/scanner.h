// Exact search: blocks x queries x threads -> hits in the total order (distance, row).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scan.h"

namespace athsearch {

// Codes in one array, row-major [n_rows, n_words]; read in place, so it may be mapped from disk.
struct Segment {
  const uint64_t* words;
  uint64_t n_rows;
};

// What is searched: segments in row order, as if they were one array.
struct Database {
  std::vector<Segment> segments;
  size_t n_bits;           // of a code, from 1; what its last word holds beyond them is zero
  uint64_t first_row = 0;  // the number of its first row in hits and in the mask
  size_t n_words() const { return (n_bits + 63) / 64; }
  uint64_t n_rows() const;
};

struct Queries {
  const uint64_t* words;  // row-major [n_queries, n_words]; zero beyond n_bits, as the database's
  size_t n_queries;
};

struct Options {
  const Kernel* kernel;
  const uint64_t* mask;      // bit r % 64 of word r / 64 allows row r; null allows all
  unsigned threads;          // at most; small searches use fewer
  bool (*is_interrupted)();  // asked now and then, on the caller's thread; null: never
  // Of rows that all queries are shown at once; what fits a 32 KiB L1 cache with room for queries and hits.
  uint64_t block_bytes = 24 * 1024;
  // How much of a scan's work a search with substrings may spend on buckets before it scans instead.
  double most_probing = 1;
  bool wants_codes = false;  // Found::codes, of top_k over codes that rows share
};

// The search was given up because Options::is_interrupted said so.
struct Interrupted {};

// Hits of query q: hits[offsets[q]] to hits[offsets[q + 1]], ascending.
struct Found {
  std::vector<int64_t> offsets;
  std::vector<Hit> hits;
  std::vector<uint32_t> codes{};  // the number of each hit's code in Postings::codes, where it was asked for
};

// The answers of two databases, each hit in one of them, as if they were one; ties are counted as top_k does, where
// given.
Found merged(const Found& first, const std::vector<int64_t>& first_ties, const Found& second,
             const std::vector<int64_t>& second_ties, uint64_t k, std::vector<int64_t>* n_ties);

// At most k hits a query, k from 1. With n_ties it gets, for each query, how many allowed rows lie at exactly the
// distance of its last hit; 0 where it has none.
Found top_k(const Database& database, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties = nullptr);

// All hits at distance <= radius, which is below 2^31 - 1.
Found within(const Database& database, const Queries& queries, uint64_t radius, const Options& options);

}  // namespace athsearch
