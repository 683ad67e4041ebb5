// Sorts a query's candidates by (distance, row): a counting sort of four bits of the hit after the other, by one block.
//
// A thread has a run of neighbouring candidates, so that equal digits stay in order and the result does not depend on
// which thread was first. The same pass with "is beyond the limit" as its digit throws out what lost. One block a query
// is enough for thousands of candidates each; millions are sorted rightly but slowly.
#pragma once

#include "portable.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kSortThreads = 256;
constexpr unsigned kDigitBits = 4;
constexpr unsigned kDigits = 1u << kDigitBits;

// What a pass sorts by.
struct Digit {
  Hit limit;
  unsigned shift;  // 64: whether the hit is beyond the limit

  ATH_BOTH unsigned operator()(Hit hit) const {
    return shift == 64 ? hit > limit : static_cast<unsigned>(hit >> shift) & (kDigits - 1);
  }
};

struct SortCounters {
  uint64_t counts[kDigits * kSortThreads];  // [digit, thread], then where each thread's next hit of a digit goes
  uint64_t sums[2][kSortThreads];           // of the thread's own kDigits counters, in the order of `counts`
};

struct Run {
  uint64_t begin, end;
};
ATH_BOTH Run run_of(unsigned thread, uint64_t n) {
  const uint64_t length = (n + kSortThreads - 1) / kSortThreads;
  return {smaller(n, thread * length), smaller(n, (thread + 1) * length)};
}

// Phase 1: how many of a thread's hits have each digit.
ATH_BOTH void count_digits(unsigned thread, const Hit* hits, uint64_t n, Digit digit, SortCounters& counters) {
  for (unsigned d = 0; d < kDigits; ++d) counters.counts[d * kSortThreads + thread] = 0;
  const Run run = run_of(thread, n);
  for (uint64_t i = run.begin; i < run.end; ++i) ++counters.counts[digit(hits[i]) * kSortThreads + thread];
}

// Phase 2: the sum of kDigits neighbouring counters.
ATH_BOTH void sum_counters(unsigned thread, SortCounters& counters) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < kDigits; ++i) sum += counters.counts[thread * kDigits + i];
  counters.sums[0][thread] = sum;
}

// Phases 3: with distance 1, 2, 4, ... each sum becomes that of all up to it; they go from sums[from] to sums[1 -
// from].
ATH_BOTH void add_earlier(unsigned thread, unsigned distance, unsigned from, SortCounters& counters) {
  const uint64_t* sums = counters.sums[from];
  counters.sums[1 - from][thread] = sums[thread] + (thread >= distance ? sums[thread - distance] : 0);
}

// Phase 4: each counter becomes the number of hits before its own.
ATH_BOTH void spread_sums(unsigned thread, unsigned from, SortCounters& counters) {
  uint64_t before = thread == 0 ? 0 : counters.sums[from][thread - 1];
  for (unsigned i = 0; i < kDigits; ++i) {
    const uint64_t n = counters.counts[thread * kDigits + i];
    counters.counts[thread * kDigits + i] = before;
    before += n;
  }
}

// Phase 5: every hit to its place.
ATH_BOTH void scatter(unsigned thread, const Hit* hits, uint64_t n, Digit digit, SortCounters& counters, Hit* sorted) {
  const Run run = run_of(thread, n);
  for (uint64_t i = run.begin; i < run.end; ++i)
    sorted[counters.counts[digit(hits[i]) * kSortThreads + thread]++] = hits[i];
}

// The passes that put n_kept hits within a limit in order: first what is beyond it goes, then digits from the lowest.
struct SortPasses {
  unsigned row_bits, distance_bits;

  ATH_BOTH unsigned n_passes() const { return 1 + n_digits(row_bits) + n_digits(distance_bits); }
  ATH_BOTH Digit digit(unsigned pass, Hit limit) const {
    if (pass == 0) return {limit, 64};
    const unsigned place = pass - 1, n_of_rows = n_digits(row_bits);
    return {limit, place < n_of_rows ? place * kDigitBits : kRowBits + (place - n_of_rows) * kDigitBits};
  }

 private:
  ATH_BOTH static unsigned n_digits(unsigned bits) { return (bits + kDigitBits - 1) / kDigitBits; }
};

// Bits that numbers below n take.
ATH_BOTH unsigned bits_below(uint64_t n) {
  unsigned bits = 0;
  while (bits < 63 && (uint64_t{1} << bits) < n) ++bits;
  return bits;
}

// A query's candidates and where the first of them go.
struct Sort {
  SortPasses passes;
  Hit *candidates, *others;  // [n_queries, capacity] each; what is in them is lost
  uint64_t capacity;
  const uint64_t* n_candidates;  // [n_queries], at most capacity
  const Hit* limits;             // [n_queries]
  const uint64_t* n_kept;        // [n_queries]: candidates within the limit
  const uint64_t* begins;        // [n_queries + 1]: where a query's answer begins in hits; its length is what fits
  Hit* hits;
};

// Last phase: the first of the sorted hits go to the answer.
ATH_BOTH void copy_answer(unsigned thread, const Hit* sorted, const Sort& sort, unsigned query) {
  const uint64_t begin = sort.begins[query], n = sort.begins[query + 1] - begin;
  for (uint64_t i = thread; i < n; i += kSortThreads) sort.hits[begin + i] = sorted[i];
}

}  // namespace cuda
}  // namespace athsearch
