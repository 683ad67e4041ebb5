// Codes of several words for many queries, three queries at a time, on bit planes.
//
// Three queries divide the bits of a code into eight classes, by which of the queries have the bit set. Let c_0 to c_7
// be how many bits of each class a row has set: each of the three distances is a sum of these, added or subtracted, and
// a constant. So every bit is counted once for three queries, not once for each: where bits are many, the counting is
// nearly all there is to do. (The matrix of signs is that of Hadamard; tables shared by what is asked are the idea of
// Arlazarov, Dinic, Kronrod and Faradzev, 1970.) The largest class is not counted: how many bits a row has set in all
// is counted once for all queries. Queries that resemble each other have few bits in the other classes.
//
// Per 512 rows: about one full adder for each bit that is counted and three queries, eleven for each digit of the
// counts, and a VPTERNLOGQ a digit and query for the comparison with the radius. A class's planes are a list, and lists
// of every length, in steps of four, have code of their own. Longest lists come first, and the trios' lists are made
// equally long where that takes little: so which code is next can be foretold.
// Limits on Zen 4, for uniform bits: a full adder a cycle, two operations, so a query meets 27 words of rows a cycle; a
// plane loaded a cycle, 25.
//
// Measured on Zen 4 at 3.65 GHz (benchmarks/results/scan-avx512_vpopcntdq.json), 256 queries, one thread: 9.2 words a
// cycle at 256 bits, 10.1 at 512, which are 33.5 and 36.9 billion words of rows a second, more than VPOPCNTQ counts
// with nothing else to do (29.2). What the limits leave goes to preparing, the sums of the counts, list lengths that
// are foretold wrongly, calls, and loads that wait for one another.
#pragma once

#include <utility>

#include "bit_planes.h"

namespace athsearch {

namespace {

constexpr size_t kTrio = 3;
constexpr size_t kClasses = 8;
constexpr size_t kCounted = kClasses - 1;

// Lists are filled up with zero planes to a multiple of kListStep. Longer ones are counted kMostAtOnce at a time.
constexpr size_t kListStep = 4;
constexpr size_t kMostAtOnce = 96;
constexpr unsigned kFewestDigits = 4, kMostCounted = bit_length(kMostAtOnce);  // digits of a count
constexpr unsigned n_written(size_t n_planes) { return n_planes < 64 ? 6 : kMostCounted; }
constexpr unsigned kMostDigits = 16;

// A list names planes by their offsets, in units that a processor multiplies by on its own.
constexpr size_t kOffsetUnit = 8;
constexpr uint16_t offset_of(size_t plane) { return static_cast<uint16_t>(plane * (kPlaneBytes / kOffsetUnit)); }
constexpr size_t kMostTrioBits = 0xffff / (kColumnPlanes * kPlaneBytes / kOffsetUnit) * 64;  // whose offsets fit

// What three queries ask. A class's number has bit q set where query q's bit differs from that of the class that is not
// counted, whose number is 0.
struct Trio {
  int64_t n_set[kTrio];         // bits of a query
  bool is_set[kTrio];           // whether the bits of the class that is not counted are, in a query
  uint32_t n_digits;            // of a class's count
  uint16_t n_listed[kCounted];  // descending
  uint16_t classes[kCounted];   // whose lists these are

  size_t n_in_lists() const {
    size_t n = 0;
    for (size_t n_in_list : n_listed) n += n_in_list;
    return n;
  }
  const uint16_t* lists() const { return reinterpret_cast<const uint16_t*>(this + 1); }
  uint16_t* lists() { return reinterpret_cast<uint16_t*>(this + 1); }
};

// Lists may be longer than they need to be by an eighth, to be as long as those of other trios.
constexpr size_t with_surplus(size_t n_listed) { return n_listed + n_listed / 8; }
constexpr size_t n_trio_bytes(size_t n_bits) {
  return (sizeof(Trio) + sizeof(uint16_t) * with_surplus(n_bits + kCounted * (kListStep - 1)) + 7) / 8 * 8;
}

// Some bits or others for queries that are missing, none of them like the others.
constexpr uint64_t kAnyBits[kTrio] = {0, 0x5555555555555555, 0x3333333333333333};

// The bits of a word that each of three queries, or as many as there are, has set as `set` says, in its bit q.
uint64_t members(const uint64_t* queries, size_t n_queries, size_t n_bits, size_t word, size_t set) {
  const size_t n_words = (n_bits + 63) / 64;
  uint64_t bits = word + 1 < n_words ? ~uint64_t{0} : ~uint64_t{0} >> (64 * n_words - n_bits);
  for (size_t q = 0; q < kTrio; ++q) {
    const uint64_t query = q < n_queries ? queries[q * n_words + word] : kAnyBits[q];
    bits &= set >> q & 1 ? query : ~query;
  }
  return bits;
}

// Writes all but the lists, which are as long as they need to be.
void divide(const uint64_t* queries, size_t n_queries, size_t n_bits, Trio& trio) {
  size_t n_of[kClasses] = {}, largest = 0;
  for (size_t set = 0; set < kClasses; ++set) {
    for (size_t word = 0; word < (n_bits + 63) / 64; ++word)
      n_of[set] += static_cast<size_t>(__builtin_popcountll(members(queries, n_queries, n_bits, word, set)));
    if (n_of[set] > n_of[largest]) largest = set;
  }
  for (size_t q = 0; q < kTrio; ++q) {
    trio.is_set[q] = largest >> q & 1;
    trio.n_set[q] = 0;
    for (size_t set = 0; set < kClasses; ++set)
      if (set >> q & 1) trio.n_set[q] += static_cast<int64_t>(n_of[set]);
  }
  for (size_t number = 1; number < kClasses; ++number) {
    size_t place = number - 1;
    for (; place > 0 && n_of[trio.classes[place - 1] ^ largest] < n_of[number ^ largest]; --place)
      trio.classes[place] = trio.classes[place - 1];
    trio.classes[place] = static_cast<uint16_t>(number);
  }
  for (size_t i = 0; i < kCounted; ++i)
    trio.n_listed[i] = static_cast<uint16_t>((n_of[trio.classes[i] ^ largest] + kListStep - 1) / kListStep * kListStep);
  trio.n_digits = larger_of(bit_length(n_of[trio.classes[0] ^ largest]), kFewestDigits);
}

void write_lists(const uint64_t* queries, size_t n_queries, size_t n_bits, Trio& trio) {
  size_t not_counted = 0;
  for (size_t q = 0; q < kTrio; ++q) not_counted |= static_cast<size_t>(trio.is_set[q]) << q;
  uint16_t* list = trio.lists();
  for (size_t i = 0; i < kCounted; ++i) {
    const uint16_t* end = list + trio.n_listed[i];
    for (size_t word = 0; word < (n_bits + 63) / 64; ++word) {
      uint64_t bits = members(queries, n_queries, n_bits, word, trio.classes[i] ^ not_counted);
      for (; bits != 0; bits &= bits - 1)
        *list++ = offset_of(word * kColumnPlanes + static_cast<size_t>(__builtin_ctzll(bits)));
    }
    while (list != end) *list++ = offset_of(kZeroPlane);
  }
}

// Counts planes kPlane to kPlanes - 1 of a list. offsets: of the next ones, four of which are read at once, for loads
// are what there are most of.
template <size_t kPlane, size_t kPlanes, uint64_t kCounts>
ALWAYS_INLINE void count_planes(const uint8_t* planes, const uint16_t* list, uint64_t offsets, Counter& counter) {
  if constexpr (kPlane < kPlanes) {
    if constexpr (kPlane % 4 == 0) __builtin_memcpy(&offsets, list + kPlane, sizeof(offsets));
    push<kCounts, 0>(counter, load(planes + (offsets & 0xffff) * kOffsetUnit));
    count_planes<kPlane + 1, kPlanes, after_push(kCounts, 0)>(planes, list, offsets >> 16, counter);
  } else {
    settle<kCounts, 0>(counter);
  }
}

// Writes how many of the kPlanes planes of a list are set, in n_written(kPlanes) digits.
template <size_t kPlanes>
__attribute__((noinline)) void count_list(const uint8_t* planes, const uint16_t* list, __m512i* count) {
  Counter counter;
  count_planes<0, kPlanes, 0>(planes, list, 0, counter);
  for (size_t i = 0; i < n_written(kPlanes); ++i) _mm512_storeu_si512(count + i, counter[i][0]);
}

// The same of n planes, from kLeast to kMost. Branches are foretold better than calls by a table.
template <size_t kLeast, size_t kMost>
ALWAYS_INLINE void count_list(const uint8_t* planes, const uint16_t* list, size_t n, __m512i* count) {
  if constexpr (kLeast == kMost) {
    count_list<kLeast>(planes, list, count);
  } else {
    constexpr size_t kMiddle = (kLeast + kMost) / 2 / kListStep * kListStep;
    if (n <= kMiddle) return count_list<kLeast, kMiddle>(planes, list, n, count);
    count_list<kMiddle + kListStep, kMost>(planes, list, n, count);
  }
}

// A digit of a + b + carry.
ALWAYS_INLINE __m512i add(__m512i a, __m512i b, __m512i& carry) {
  const __m512i sum = _mm512_ternarylogic_epi64(carry, a, b, 0x96);
  carry = _mm512_ternarylogic_epi64(carry, a, b, 0xe8);
  return sum;
}
// A digit of a + not b + carry: in all, a - b - 1.
ALWAYS_INLINE __m512i subtract(__m512i a, __m512i b, __m512i& carry) {
  const __m512i difference = _mm512_ternarylogic_epi64(carry, a, b, 0x69);
  carry = _mm512_ternarylogic_epi64(carry, a, b, 0xd4);
  return difference;
}

// The same of any number of planes, in n_digits digits. kDigits: as many, or 0 for any.
template <unsigned kDigits>
ALWAYS_INLINE void count_class(const uint8_t* planes, const uint16_t* list, size_t n, unsigned n_digits,
                               __m512i* count) {
  constexpr size_t kMost = kDigits == 0 ? kMostAtOnce : smaller_of<size_t>(kMostAtOnce, 1 << kDigits);
  count_list<0, kMost>(planes, list, smaller_of(n, kMost), count);
  for (size_t i = n_written(n); i < n_digits; ++i) count[i] = _mm512_setzero_si512();
  for (size_t first = kMost; first < n; first += kMost) {
    __m512i more[kMostCounted] = {}, carry = _mm512_setzero_si512();
    count_list<0, kMost>(planes, list + first, smaller_of(n - first, kMost), more);
    for (size_t i = 0; i < n_digits; ++i)
      count[i] = add(count[i], i < kMostCounted ? more[i] : _mm512_setzero_si512(), carry);
  }
}

// The counts of classes 1 to 7, one after the other: with room for kMostDigits each, a KiB, the same digit of all of
// them would have four places of the L1 cache to share.
struct Counts {
  __m512i* digits;
  unsigned n_digits;  // room for so many of each, at least as many as count_class writes

  ALWAYS_INLINE __m512i* of(size_t number) const { return digits + (number - 1) * n_digits; }
};

// Digit by digit, from the lowest: how many of the bits that a row has set are of classes with bit q,
//
//   b_0 = c_1 + c_3 + c_5 + c_7, b_1 = c_2 + c_3 + c_6 + c_7, b_2 = c_4 + c_5 + c_6 + c_7,
//
// and 2 b_q - p, where p is how many it has set in all. Where the class that is not counted has query q's bits set, its
// distance is n_set + 2 b_q - p, elsewhere n_set - 2 b_q + p.
struct Sums {
  __m512i pair_carries[5] = {}, four_carries[kTrio] = {}, query_carries[kTrio];
  __m512i lower[kTrio] = {};  // the digit of b_q before this one
  __m512i near[kTrio];        // rows whose 2 b_q - p is at most the limit, which has as many digits, but for the sign
  uint64_t limits[kTrio];     // plus what the sign counts, so that it is one when the number is not negative

  explicit ALWAYS_INLINE Sums(const uint64_t limits_of[kTrio]) {
    for (size_t q = 0; q < kTrio; ++q) limits[q] = limits_of[q];
    for (size_t q = 0; q < kTrio; ++q) query_carries[q] = near[q] = _mm512_set1_epi64(-1);
  }

  ALWAYS_INLINE void add_digit(const Counts& counts, unsigned digit, __m512i b[kTrio]) {
    const auto pair = [&](size_t i, size_t j, __m512i& carry) {
      return add(counts.of(i)[digit], counts.of(j)[digit], carry);
    };
    const __m512i pairs[5] = {pair(3, 7, pair_carries[0]), pair(1, 5, pair_carries[1]), pair(2, 6, pair_carries[2]),
                              pair(5, 6, pair_carries[3]), pair(4, 7, pair_carries[4])};
    add_fours(pairs, b);
  }
  ALWAYS_INLINE void add_fours(const __m512i pairs[5], __m512i b[kTrio]) {
    b[0] = add(pairs[0], pairs[1], four_carries[0]);
    b[1] = add(pairs[0], pairs[2], four_carries[1]);
    b[2] = add(pairs[3], pairs[4], four_carries[2]);
  }

  template <bool kIsSign = false>
  ALWAYS_INLINE void compare(const __m512i b[kTrio], const uint8_t* population, unsigned digit) {
    const __m512i p = load(population + digit * kPlaneBytes);
    for (size_t q = 0; q < kTrio; ++q) {
      __m512i difference = subtract(lower[q], p, query_carries[q]);
      if constexpr (kIsSign) difference = _mm512_xor_si512(difference, _mm512_set1_epi64(-1));
      near[q] = near_by(difference, limits[q], digit, near[q]);
      lower[q] = b[q];
    }
  }
};

// Writes the rows whose 2 b_q - p is at most a limit, whose sign counts as Sums says. kDigits: of a count; kSumDigits:
// of 2 b_q - p, more than that; both 0 for any. Where they are known, what is between digits stays in registers.
template <unsigned kDigits, unsigned kSumDigits>
__attribute__((noinline)) void find_near(const Counts& counts, unsigned n_digits, const uint8_t* population,
                                         unsigned n_sum_digits, const uint64_t limits[kTrio], __m512i near[kTrio]) {
  if constexpr (kDigits != 0) {
    n_digits = kDigits;
    n_sum_digits = kSumDigits;
  }
  Sums sums(limits);
  __m512i b[kTrio];
#pragma GCC unroll 8
  for (unsigned digit = 0; digit < n_digits; ++digit) {
    sums.add_digit(counts, digit, b);
    sums.compare(b, population, digit);
  }
  sums.add_fours(sums.pair_carries, b);
#pragma GCC unroll 8
  for (unsigned digit = n_digits; digit + 1 < n_sum_digits; ++digit) {
    sums.compare(b, population, digit);
    for (size_t q = 0; q < kTrio; ++q) {
      b[q] = sums.four_carries[q];
      sums.four_carries[q] = _mm512_setzero_si512();
    }
  }
  sums.compare<true>(b, population, n_sum_digits - 1);
  for (size_t q = 0; q < kTrio; ++q) near[q] = sums.near[q];
}

// A part is a slice, the digits of how many bits its rows have set, and room for counts: on the stack, where processes'
// addresses differ, they fall in places of the planes' or beside them by chance.
size_t trio_part_rows(size_t) { return kSliceRows; }
constexpr size_t kCountBytes = kCounted * kMostDigits * kPlaneBytes;
size_t n_trio_part_bytes(size_t n_bits) {
  return n_slice_bytes((n_bits + 63) / 64) + kMostDigits * kPlaneBytes + kCountBytes;
}
uint8_t* population_of(const Part& part) { return part.prepared + n_slice_bytes(part.n_words()); }
uint8_t* counts_of(const Part& part) { return population_of(part) + kMostDigits * kPlaneBytes; }

void prepare_for_trios(const Part& part) {
  const unsigned n_digits = bit_length(64 * part.n_words());
  uint8_t* population = population_of(part);
  __m512i n_set[kMostDigits] = {};
  Counter of_word;
  const auto count = [&](auto eight, const __m512i planes[8]) {
    each_of([&](auto i) { push<after_pushes(8 * eight.value + i.value), 0>(of_word, planes[i.value]); },
            std::make_index_sequence<8>());
    if constexpr (eight.value == 7) {
      settle<after_pushes(64), 0>(of_word);
      __m512i carry = _mm512_setzero_si512();
      for (unsigned i = 0; i < bit_length(64); ++i) n_set[i] = add(n_set[i], of_word[i][0], carry);
      for (unsigned i = bit_length(64); i < n_digits; ++i) n_set[i] = add(n_set[i], _mm512_setzero_si512(), carry);
    }
  };
  write_planes(part, count);
  for (unsigned i = 0; i < kMostDigits; ++i) _mm512_storeu_si512(population + i * kPlaneBytes, n_set[i]);
}

// kDigits: the trio's, or 0 for any. n_fetched: lines ahead, before each list.
template <unsigned kDigits>
__attribute__((noinline)) void within_trio(const Part& part, const Trio& trio, size_t first, size_t n_fetched,
                                           PartQueries& queries) {
  const unsigned n_digits = kDigits == 0 ? trio.n_digits : kDigits;
  const Counts counts = {reinterpret_cast<__m512i*>(counts_of(part)), larger_of(n_digits, kMostCounted)};
  const uint16_t* list = trio.lists();
  for (size_t i = 0; i < kCounted; list += trio.n_listed[i++]) {
    fetch(queries.ahead, (first / kTrio * kCounted + i) * n_fetched, n_fetched);
    count_class<kDigits>(part.prepared, list, trio.n_listed[i], n_digits, counts.of(trio.classes[i]));
  }
  const size_t end = smaller_of(first + kTrio, queries.n);
  const unsigned n_sum_digits = bit_length(part.n_bits) + 1;
  const int64_t beyond = int64_t{1} << (n_sum_digits - 1);
  uint64_t limits[kTrio];
  for (size_t q = 0; q < kTrio; ++q) {
    const int64_t radius = first + q < end ? queries.radii[first + q] : 0;
    const int64_t limit = trio.is_set[q] ? radius - trio.n_set[q] : trio.n_set[q] - radius - 1;
    limits[q] = static_cast<uint64_t>(larger_of(smaller_of(limit, beyond - 1), -beyond) + beyond);
  }
  __m512i near[kTrio];
  // As most often, where no class is much larger than the others.
  constexpr unsigned kSumDigits = kDigits == 0 ? 0 : kDigits + 4;
  if (n_sum_digits == kSumDigits) {
    find_near<kDigits, kSumDigits>(counts, n_digits, population_of(part), n_sum_digits, limits, near);
  } else {
    find_near<0, 0>(counts, n_digits, population_of(part), n_sum_digits, limits, near);
  }
  for (size_t q = first; q < end; ++q) {
    const __m512i invert = _mm512_set1_epi64(trio.is_set[q - first] ? 0 : -1);
    add_near_rows(part, q, _mm512_xor_si512(near[q - first], invert), queries);
  }
}

size_t n_trio_plan_bytes(size_t n_bits, size_t n_queries) {
  return (n_queries + kTrio - 1) / kTrio * n_trio_bytes(n_bits);
}

void plan_trios(const uint64_t* queries, size_t n_queries, size_t n_bits, uint8_t* plan) {
  const size_t n_words = (n_bits + 63) / 64;
  const auto trio_of = [&](size_t first) -> Trio& {
    return *reinterpret_cast<Trio*>(plan + first / kTrio * n_trio_bytes(n_bits));
  };
  Trio most = {};
  for (size_t first = 0; first < n_queries; first += kTrio) {
    Trio& trio = trio_of(first);
    divide(queries + first * n_words, n_queries - first, n_bits, trio);
    most.n_digits = larger_of(most.n_digits, trio.n_digits);
    for (size_t i = 0; i < kCounted; ++i) most.n_listed[i] = larger_of(most.n_listed[i], trio.n_listed[i]);
  }
  for (size_t first = 0; first < n_queries; first += kTrio) {
    Trio& trio = trio_of(first);
    if (most.n_in_lists() <= with_surplus(trio.n_in_lists())) {
      trio.n_digits = most.n_digits;
      for (size_t i = 0; i < kCounted; ++i) trio.n_listed[i] = most.n_listed[i];
    }
    write_lists(queries + first * n_words, n_queries - first, n_bits, trio);
  }
}

void within_trios(const Part& part, PartQueries& queries) {
  const size_t n_fetched = n_lines_a_step(queries.ahead, (queries.n + kTrio - 1) / kTrio * kCounted);
  const uint8_t* plan = queries.plan;
  for (size_t first = 0; first < queries.n; first += kTrio, plan += n_trio_bytes(part.n_bits)) {
    const Trio& trio = *reinterpret_cast<const Trio*>(plan);
    if (trio.n_digits == 4) {
      within_trio<4>(part, trio, first, n_fetched, queries);
    } else if (trio.n_digits == 5) {
      within_trio<5>(part, trio, first, n_fetched, queries);
    } else if (trio.n_digits == 6) {
      within_trio<6>(part, trio, first, n_fetched, queries);
    } else if (trio.n_digits == 7) {
      within_trio<7>(part, trio, first, n_fetched, queries);
    } else {
      within_trio<0>(part, trio, first, n_fetched, queries);
    }
  }
}

static_assert(kPartQueries % kTrio == 0, "each batch's plan stands on its own");
constexpr Preparation kTrios = {trio_part_rows, n_trio_part_bytes, n_trio_plan_bytes,
                                plan_trios,     prepare_for_trios, within_trios};

}  // namespace

}  // namespace athsearch
