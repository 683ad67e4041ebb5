// Exact search by multi-index hashing: codes are kept in the order of each of m substrings, and a query is compared
// only with codes of which one substring is near its own. Norouzi, Punjani, Fleet, Fast exact search in Hamming space
// with multi-index hashing, IEEE TPAMI 36, 2014 (arXiv 1307.2982).
#pragma once

#include <cstdint>
#include <vector>

#include "distinct.h"

namespace athsearch {

constexpr unsigned kMostSubstringBits = 24;

// All codes in the order of one substring: bits first_bit to first_bit + n_bits - 1. The codes themselves lie in that
// order, so that a bucket, the codes of one substring, is read where it lies and not chased.
struct SubstringTable {
  unsigned first_bit, n_bits;
  const uint32_t* begins;  // [2^n_bits + 1]: the bucket of substring s is begins[s] to begins[s + 1] - 1
  const uint64_t* words;   // row-major [n_codes, n_words]
  const uint32_t* codes;   // [n_codes]: their numbers in postings.codes
};

struct MultiIndex {
  Postings postings;
  std::vector<SubstringTable> tables;  // every bit is in one substring
};

// Writes one table's arrays; a bucket's codes ascend by number. codes: at most kMostDistinctRows. Throws Interrupted.
void fill_table(const Database& codes, unsigned first_bit, unsigned n_bits, uint32_t* begins, uint64_t* words,
                uint32_t* numbers, unsigned threads, bool (*is_interrupted)());

// As the searches of distinct codes. A query for which looking into buckets would take longer than comparing all codes
// is answered by that. Throws Damaged, Interrupted.
Found top_k(const MultiIndex& index, const Queries& queries, uint64_t k, const Options& options,
            std::vector<int64_t>* n_ties = nullptr);
Found within(const MultiIndex& index, const Queries& queries, uint64_t radius, const Options& options);

// About how many words a scan compares in the time that a query takes which looks into buckets until it has seen
// everything up to a distance; buckets being as full as they are on average. Only the sizes in `index` are read.
double probing_words(const MultiIndex& index, uint64_t distance);

}  // namespace athsearch
