// What a thread of the scan does, phase by phase: a kernel calls these with barriers between, a test in any order.
//
// A block has a pass's queries, their limits and a counter for each distance in its shared memory. Its threads compare
// rows step by step and note, a bit for each (row, query), what lies within a query's limit; these few are looked at
// once more, counted, and appended to the query's candidates. No distance is written anywhere else.
#pragma once

#include "codes.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kQueriesAPass = 8;  // where there are several, and codes are of at most kMostUnrolledWords words
// Few queries are faster one by one, each at the speed of the memory; longer codes always go one by one.
inline bool is_batch(unsigned n_queries, unsigned n_words) { return n_queries > 3 && n_words <= kMostUnrolledWords; }

enum class ScanKernel { kPopcount, kB1, kWgmma };

// By arithmetic (scan_b1.cu, scan_wgmma.cu) b1 is ahead as soon as a query no longer goes by itself, and wgmma as soon
// as they are more than b1's small pass of 16.
constexpr unsigned kLeastB1Queries = 4, kLeastWgmmaQueries = 17, kNever = ~0u;

// How many queries make a scan on the tensor cores worth it.
struct LeastQueries {
  unsigned for_b1 = kNever, for_wgmma = kNever;

  ScanKernel kernel_for(size_t n_queries) const {
    return n_queries >= for_wgmma ? ScanKernel::kWgmma : n_queries >= for_b1 ? ScanKernel::kB1 : ScanKernel::kPopcount;
  }
};

constexpr uint64_t kAnyRow = (uint64_t{1} << kRowBits) - 1;

// The last hit at a distance, as a limit: distances are integers and rows are part of the order, so that there are no
// ties.
ATH_BOTH Hit last_at(uint64_t distance) { return distance << kRowBits | kAnyRow; }

struct Scan {
  Codes codes;
  const uint64_t* mask;     // null, or bit r % 64 of word r / 64 allows row r; has a bit for every padded row
  const uint64_t* queries;  // row-major [n_queries, n_words]
  unsigned n_queries;
  unsigned n_distances;
  const Hit* limits;     // [n_queries]: the largest hit that is wanted
  uint64_t* histogram;   // [n_queries, n_distances]: wanted hits by distance; all are counted
  Hit* candidates;       // [n_queries, capacity]: wanted hits in any order; those that find room
  uint64_t* n_appended;  // [n_queries]: wanted hits, with room or without
  uint64_t capacity;
  ScanKernel kernel;
};

// Counts hits from `firsts` on in bins of 2^shift: by distance, or, at one distance, by ranges of rows.
struct Count {
  Codes codes;
  const uint64_t* mask;
  const uint64_t* queries;
  unsigned n_queries;
  const Hit* firsts;  // [n_queries]
  unsigned shift;
  unsigned n_bins;
  uint64_t every;  // so many-th step is looked at: a sample where above 1
  uint64_t* bins;  // [n_queries, n_bins]
};

// What a block keeps in its shared memory, laid out in bytes that the launch provides.
struct Shared {
  uint64_t* queries;   // [n_queries of a pass, n_words]; zero for those that are missing
  uint64_t* hits;      // [n_queries of a pass]: limits, or firsts
  uint32_t* counters;  // [n_queries of a pass, n_counters]: a block sees fewer than 2^32 rows

  ATH_BOTH Shared(void* bytes, unsigned n_words, unsigned n_of_pass)
      : queries(static_cast<uint64_t*>(bytes)),
        hits(queries + n_of_pass * n_words),
        counters(reinterpret_cast<uint32_t*>(hits + n_of_pass)) {}

  static size_t n_bytes(unsigned n_words, unsigned n_of_pass, unsigned n_counters) {
    return n_of_pass * ((n_words + 1) * sizeof(uint64_t) + n_counters * sizeof(uint32_t));
  }
};

// Phase 1: the queries of pass `first / n_of_pass` into shared memory, and zeros into its counters.
ATH_BOTH void load_pass(unsigned thread, const uint64_t* queries, const Hit* hits, unsigned n_queries, unsigned n_words,
                        unsigned first, unsigned n_of_pass, unsigned n_counters, const Shared& shared) {
  const unsigned n_there = n_queries - first < n_of_pass ? n_queries - first : n_of_pass;
  for (unsigned i = thread; i < n_of_pass * n_words; i += kThreads)
    shared.queries[i] = i < n_there * n_words ? queries[size_t{first} * n_words + i] : 0;
  for (unsigned i = thread; i < n_there; i += kThreads) shared.hits[i] = hits[first + i];
  for (unsigned i = thread; i < n_of_pass * n_counters; i += kThreads) shared.counters[i] = 0;
}

// The distances of a thread's rows in a step to a pass's queries. kWords: 0 for lengths that are known at run time
// only.
template <unsigned kWords, unsigned kQueries>
ATH_BOTH void compare(const Codes& codes, const uint64_t* queries, uint64_t step, unsigned thread,
                      unsigned (&distances)[rows_a_step(kWords, kQueries)][kQueries]) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  const unsigned n_words = kWords == 0 ? codes.n_words : kWords;
  // Unrolled otherwise, these few spill: the compiler aims at a number of blocks at once. `make cuda-report` tells.
  [[maybe_unused]] constexpr unsigned kUnrolledWords = kWords == 0 ? 8 : kWords > 6 && kQueries > 1 ? 4 : kWords;
  ATH_UNROLL
  for (unsigned slot = 0; slot < kSlots; ++slot) ATH_UNROLL
  for (unsigned q = 0; q < kQueries; ++q) distances[slot][q] = 0;
  ATH_UNROLL_WORDS
  for (unsigned word = 0; word < n_words; ++word) {
    uint64_t words[kSlots];
    ATH_UNROLL
    for (unsigned slot = 0; slot < kSlots; slot += 2)
      read_pair(codes.words + word_place(row_of(step, slot, kSlots, thread), word, n_words), words[slot],
                words[slot + 1]);
    ATH_UNROLL
    for (unsigned q = 0; q < kQueries; ++q) {
      const uint64_t of_query = queries[q * n_words + word];
      ATH_UNROLL
      for (unsigned slot = 0; slot < kSlots; ++slot) distances[slot][q] += n_set_bits(words[slot] ^ of_query);
    }
  }
}

// Bit s of the rows that a thread's slots stand for: whether it is a row of the database and the mask allows it.
ATH_BOTH uint32_t allowed_slots(const Codes& codes, const uint64_t* mask, uint64_t step, unsigned n_slots,
                                unsigned thread) {
  uint32_t allowed = 0;
  for (unsigned slot = 0; slot < n_slots; slot += 2) {
    const uint64_t row = row_of(step, slot, n_slots, thread);
    uint32_t both = (row < codes.n_rows ? 1u : 0u) | (row + 1 < codes.n_rows ? 2u : 0u);
    if (mask != nullptr) both &= static_cast<uint32_t>(mask[row / 64] >> (row % 64)) & 3u;
    allowed |= both << slot;
  }
  return allowed;
}

// Phase 2, fast part: bit s * kQueries + q for slot s and query q, where the distance is within the query's limit.
template <unsigned kWords, unsigned kQueries>
ATH_BOTH uint32_t near_rows(const Scan& scan, const Shared& shared, unsigned n_there, uint64_t step, unsigned thread) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  static_assert(kSlots * kQueries <= 32, "a bit each");
  unsigned distances[kSlots][kQueries];
  compare<kWords, kQueries>(scan.codes, shared.queries, step, thread, distances);
  uint32_t near = 0;
  ATH_UNROLL
  for (unsigned q = 0; q < kQueries; ++q) {
    if (q >= n_there) break;
    const auto most = static_cast<unsigned>(hit_distance(shared.hits[q]));
    ATH_UNROLL
    for (unsigned slot = 0; slot < kSlots; ++slot)
      if (distances[slot][q] <= most) near |= 1u << (slot * kQueries + q);
  }
  return near;
}

// A near row, looked at once more.
struct Near {
  unsigned query;  // of the pass
  Hit hit;
  bool is_wanted;  // the row is allowed and the hit within the limit
};

// A row's words are read again, which the caches still have; to keep all distances for so few would take registers from
// everyone.
ATH_BOTH unsigned distance_of(const Codes& codes, uint64_t row, const uint64_t* query) {
  unsigned distance = 0;
  for (unsigned word = 0; word < codes.n_words; ++word)
    distance += n_set_bits(codes.words[word_place(row, word, codes.n_words)] ^ query[word]);
  return distance;
}

// A query of the pass and a row that lie near each other, read from the GPU's memory.
ATH_BOTH Near look_again(const Scan& scan, unsigned first_query, unsigned query, uint64_t row) {
  const uint64_t number = first_query + query;
  const Hit hit = make_hit(distance_of(scan.codes, row, scan.queries + number * scan.codes.n_words), row);
  const bool is_allowed =
      row < scan.codes.n_rows && (scan.mask == nullptr || (scan.mask[row / 64] >> (row % 64) & 1u) != 0);
  return {query, hit, is_allowed && hit <= scan.limits[number]};
}

// Phase 2, rare part: the near row of a bit.
template <unsigned kWords, unsigned kQueries>
ATH_BOTH Near near_row(const Scan& scan, const Shared& shared, unsigned bit, uint64_t step, unsigned thread) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  const unsigned query = bit % kQueries, slot = bit / kQueries;
  const uint64_t row = row_of(step, slot, kSlots, thread);
  const Hit hit = make_hit(distance_of(scan.codes, row, shared.queries + query * scan.codes.n_words), row);
  const bool is_allowed = allowed_slots(scan.codes, scan.mask, step, kSlots, thread) >> slot & 1u;
  return {query, hit, is_allowed && hit <= shared.hits[query]};
}

// Threads of a warp that found hits of one counter, that is, of one query and distance, at the same time append them
// together: the first of them counts them and gets the place of the first, the others follow in the order of their
// lanes. first_query: of the pass.
ATH_BOTH unsigned counter_of(const Scan& scan, const Near& near) {
  return near.query * scan.n_distances + static_cast<unsigned>(hit_distance(near.hit));
}
ATH_BOTH uint64_t reserve(const Scan& scan, unsigned first_query, const Near& near, unsigned n) {
  return add_together(&scan.n_appended[first_query + near.query], uint64_t{n});
}
ATH_BOTH unsigned rank_among(uint32_t lanes, unsigned lane) { return n_set_bits(lanes & ((1u << lane) - 1)); }
ATH_BOTH void append(const Scan& scan, unsigned query, uint64_t place, Hit hit) {
  if (place < scan.capacity) scan.candidates[query * scan.capacity + place] = hit;
}

// Phase 2 of a count: a step's rows into the block's bins.
template <unsigned kWords, unsigned kQueries>
ATH_BOTH void count_rows(const Count& count, const Shared& shared, unsigned n_there, uint64_t step, unsigned thread) {
  constexpr unsigned kSlots = rows_a_step(kWords, kQueries);
  unsigned distances[kSlots][kQueries];
  compare<kWords, kQueries>(count.codes, shared.queries, step, thread, distances);
  const uint32_t allowed = allowed_slots(count.codes, count.mask, step, kSlots, thread);
  ATH_UNROLL
  for (unsigned q = 0; q < kQueries; ++q) {
    if (q >= n_there) break;
    const Hit first = shared.hits[q];
    ATH_UNROLL
    for (unsigned slot = 0; slot < kSlots; ++slot) {
      const Hit hit = make_hit(distances[slot][q], row_of(step, slot, kSlots, thread));
      const uint64_t bin = (hit - first) >> count.shift;  // far beyond all bins where the hit is before the first
      if ((allowed >> slot & 1u) && bin < count.n_bins)
        add_together(&shared.counters[q * count.n_bins + static_cast<unsigned>(bin)], 1u);
    }
  }
}

// Phase 3: the block's counters are added to everyone's.
ATH_BOTH void flush_counters(unsigned thread, const Shared& shared, unsigned n_there, unsigned n_counters,
                             uint64_t* sums) {
  for (unsigned i = thread; i < n_there * n_counters; i += kThreads)
    if (shared.counters[i] != 0) add_together(&sums[i], uint64_t{shared.counters[i]});
}

}  // namespace cuda
}  // namespace athsearch
