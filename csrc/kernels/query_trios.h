// Codes of several words for many queries, three queries at a time, on bit planes.
//
// Three queries divide the bits of a code into eight classes, by which of the queries have the bit set. Let c_0 to c_7
// be how many bits of each class a row has set: each of the three distances is a sum of these, added or subtracted, and
// a constant. So every bit is counted once for three queries, not once for each: where bits are many, the counting is
// nearly all there is to do. (The matrix of signs is that of Hadamard; tables shared by what is asked are the idea of
// Arlazarov, Dinic, Kronrod and Faradzev, 1970.)
//
// Per 512 rows: about one full adder for each bit and three queries, eleven for each digit of the counts, and a
// VPTERNLOGQ a digit and query for the comparison with the radius. A class's planes are a list, and lists of every
// length, in steps of eight, have code of their own. Longest lists come first: so which code is next can be foretold.
// Limit: a full adder a cycle, two operations, on Zen 4, so a query meets 24 words of rows a cycle.
//
// Measured on Zen 4 at 3.65 GHz (benchmarks/results/scan-avx512_vpopcntdq.json), 256 queries, one thread: 28 % of that
// limit at 256 bits, 34 % at 512: 29.5 billion words of rows a second, more than VPOPCNTQ counts with nothing else to
// do (29.3). The rest goes to the calls for lists, the stores of counts and, at 512 bits, what the L1 cache cannot
// hold; four queries and sixteen classes were no faster.
#pragma once

#include <utility>

#include "bit_planes.h"

namespace athsearch {

namespace {

constexpr size_t kTrio = 3;
constexpr size_t kClasses = 8;

// Lists are filled up with zero planes to a multiple of kListStep. Longer ones are counted kMostAtOnce at a time.
constexpr size_t kListStep = 8;
constexpr size_t kMostAtOnce = 96;
constexpr size_t kListLengths = kMostAtOnce / kListStep + 1;
constexpr unsigned kFewestDigits = 4, kMostCounted = bit_length(kMostAtOnce);  // digits of a count
constexpr unsigned kMostDigits = 16;

// What three queries ask. Where there are fewer, the first stands for those that are missing.
struct Trio {
  int64_t offsets[kTrio];       // of a query's distances from what is computed
  uint32_t n_digits;            // of a class's count
  uint16_t n_listed[kClasses];  // descending
  uint16_t classes[kClasses];   // whose lists these are

  const uint16_t* lists() const { return reinterpret_cast<const uint16_t*>(this + 1); }
  uint16_t* lists() { return reinterpret_cast<uint16_t*>(this + 1); }
};

constexpr size_t n_trio_bytes(size_t n_bits) {
  return (sizeof(Trio) + sizeof(uint16_t) * (n_bits + kClasses * (kListStep - 1)) + 7) / 8 * 8;
}

void plan_trio(const uint64_t* queries, size_t n_queries, size_t n_bits, Trio& trio) {
  const size_t n_words = (n_bits + 63) / 64;
  const auto members = [&](size_t number, size_t word) {
    uint64_t bits = word + 1 < n_words ? ~uint64_t{0} : ~uint64_t{0} >> (64 * n_words - n_bits);
    for (size_t q = 0; q < kTrio; ++q) {
      const uint64_t set = queries[(q < n_queries ? q : 0) * n_words + word];
      bits &= number >> q & 1 ? set : ~set;
    }
    return bits;
  };
  size_t n_of[kClasses] = {};
  for (size_t number = 0; number < kClasses; ++number) {
    for (size_t word = 0; word < n_words; ++word)
      n_of[number] += static_cast<size_t>(__builtin_popcountll(members(number, word)));
    size_t place = number;
    for (; place > 0 && n_of[trio.classes[place - 1]] < n_of[number]; --place)
      trio.classes[place] = trio.classes[place - 1];
    trio.classes[place] = static_cast<uint16_t>(number);
  }
  uint16_t* list = trio.lists();
  for (size_t place = 0; place < kClasses; ++place) {
    uint16_t* begin = list;
    for (size_t word = 0; word < n_words; ++word)
      for (uint64_t bits = members(trio.classes[place], word); bits != 0; bits &= bits - 1)
        *list++ = static_cast<uint16_t>(word * kColumnPlanes + static_cast<size_t>(__builtin_ctzll(bits)));
    while ((list - begin) % kListStep != 0) *list++ = kZeroPlane;
    trio.n_listed[place] = static_cast<uint16_t>(list - begin);
  }
  const unsigned n_digits = bit_length(n_of[trio.classes[0]]);
  trio.n_digits = n_digits < kFewestDigits ? kFewestDigits : n_digits;
  for (size_t q = 0; q < kTrio; ++q) {
    trio.offsets[q] = q == 2 ? 4 : 1;  // see Sums
    for (size_t number = 0; number < kClasses; ++number)
      if (number >> q & 1) trio.offsets[q] += static_cast<int64_t>(n_of[number]);
  }
}

// Counts planes kPlane to kPlanes - 1 of a list.
template <size_t kPlane, size_t kPlanes, uint64_t kCounts>
ALWAYS_INLINE void count_planes(const uint8_t* planes, const uint16_t* list, Counter& counter) {
  if constexpr (kPlane < kPlanes) {
    push<kCounts, 0>(counter, load(planes + list[kPlane] * kPlaneBytes));
    count_planes<kPlane + 1, kPlanes, after_push(kCounts, 0)>(planes, list, counter);
  } else {
    settle<kCounts, 0>(counter);
  }
}

// Writes how many of the kPlanes planes of a list are set, in kDigits digits.
template <size_t kPlanes, unsigned kDigits>
__attribute__((noinline)) void count_list(const uint8_t* planes, const uint16_t* list, __m512i* count) {
  Counter counter;
  count_planes<0, kPlanes, 0>(planes, list, counter);
  for (size_t i = 0; i < kDigits; ++i) _mm512_storeu_si512(count + i, counter[i][0]);
}

using CountFunction = void (*)(const uint8_t* planes, const uint16_t* list, __m512i* count);
struct CountFunctions {
  CountFunction by_steps[kListLengths];
};

// Those that cannot be asked for, as counts with so many digits are less, are null.
template <unsigned kDigits, size_t... kSteps>
constexpr CountFunctions count_functions(std::index_sequence<kSteps...>) {
  return {{(kSteps * kListStep < (1 << kDigits) + kListStep ? count_list<kSteps * kListStep, kDigits> : nullptr)...}};
}
template <unsigned kDigits>
constexpr CountFunctions kFunctions = count_functions<kDigits>(std::make_index_sequence<kListLengths>());
constexpr CountFunctions kCountFunctions[] = {kFunctions<4>, kFunctions<5>, kFunctions<6>, kFunctions<7>};
static_assert(kFewestDigits == 4 && kMostCounted == 7, "a row for each number of digits");

// A digit of a + b + carry.
ALWAYS_INLINE __m512i add(__m512i a, __m512i b, __m512i& carry) {
  const __m512i sum = _mm512_ternarylogic_epi64(a, b, carry, 0x96);
  carry = _mm512_ternarylogic_epi64(a, b, carry, 0xe8);
  return sum;
}
// A digit of a + not b + carry: in all, a - b - 1.
ALWAYS_INLINE __m512i subtract(__m512i a, __m512i b, __m512i& carry) {
  const __m512i difference = _mm512_ternarylogic_epi64(a, b, carry, 0x69);
  carry = _mm512_ternarylogic_epi64(a, b, carry, 0xb2);
  return difference;
}

// Writes how many of n planes of a list are set, in n_digits digits.
ALWAYS_INLINE void count_class(const uint8_t* planes, const uint16_t* list, size_t n, unsigned n_digits,
                               __m512i* count) {
  const CountFunctions& functions = kCountFunctions[smaller_of(n_digits, kMostCounted) - kFewestDigits];
  functions.by_steps[smaller_of(n, kMostAtOnce) / kListStep](planes, list, count);
  for (size_t i = kMostCounted; i < n_digits; ++i) count[i] = _mm512_setzero_si512();
  for (size_t first = kMostAtOnce; first < n; first += kMostAtOnce) {
    __m512i more[kMostCounted], carry = _mm512_setzero_si512();
    functions.by_steps[smaller_of(n - first, kMostAtOnce) / kListStep](planes, list + first, more);
    for (size_t i = 0; i < n_digits; ++i)
      count[i] = add(count[i], i < kMostCounted ? more[i] : _mm512_setzero_si512(), carry);
  }
}

// Digit by digit, from the lowest: with e_i = c_i - c_(7 - i) - 1, of e_0 to e_3, of sums of two of these, and of
//
//   d_0 = (e_0 + e_2) - (e_1 + e_3) - 1, d_1 = (e_0 + e_1) - (e_2 + e_3) - 1, d_2 = e_0 + e_1 + e_2 + e_3,
//
// which are the distances less their offsets, and are compared with the radii less these.
struct Sums {
  __m512i class_carries[4] = {}, pair_carries[4] = {}, query_carries[kTrio] = {};
  __m512i near[kTrio];
  uint64_t limits[kTrio];

  ALWAYS_INLINE void add_digit(const __m512i e[4], __m512i distances[kTrio]) {
    const __m512i even = add(e[0], e[2], pair_carries[0]), odd = add(e[1], e[3], pair_carries[1]);
    const __m512i low = add(e[0], e[1], pair_carries[2]), high = add(e[2], e[3], pair_carries[3]);
    distances[0] = subtract(even, odd, query_carries[0]);
    distances[1] = subtract(low, high, query_carries[1]);
    distances[2] = add(even, odd, query_carries[2]);
  }
  ALWAYS_INLINE void compare(const __m512i distances[kTrio], unsigned digit) {
    for (size_t q = 0; q < kTrio; ++q) near[q] = near_by(distances[q], limits[q], digit, near[q]);
  }
};

// Writes sums.near. Numbers have three digits more than counts, the last one a sign: compared as unsigned ones, with
// the sign inverted.
ALWAYS_INLINE void sum_up(const __m512i (*counts)[kMostDigits], unsigned n_digits, Sums& sums) {
  const __m512i ones = _mm512_set1_epi64(-1);
  for (__m512i& near : sums.near) near = ones;
  __m512i e[4], distances[kTrio];
#pragma GCC unroll 8
  for (unsigned digit = 0; digit < n_digits; ++digit) {
    for (size_t i = 0; i < 4; ++i) e[i] = subtract(counts[i][digit], counts[7 - i][digit], sums.class_carries[i]);
    sums.add_digit(e, distances);
    sums.compare(distances, digit);
  }
  for (size_t i = 0; i < 4; ++i) e[i] = _mm512_xor_si512(sums.class_carries[i], ones);  // from here on its sign
  for (unsigned digit = n_digits; digit < n_digits + 2; ++digit) {
    sums.add_digit(e, distances);
    sums.compare(distances, digit);
  }
  sums.add_digit(e, distances);
  for (__m512i& sign : distances) sign = _mm512_xor_si512(sign, ones);
  sums.compare(distances, n_digits + 2);
}

// Two slices a part where they fit the cache: the code for each list is then called twice in a row.
constexpr size_t kMostSlices = 2;
size_t trio_part_rows(size_t n_bits) { return (n_bits <= 256 ? kMostSlices : 1) * kSliceRows; }
size_t n_trio_part_bytes(size_t n_bits) {
  return trio_part_rows(n_bits) / kSliceRows * n_slice_bytes((n_bits + 63) / 64);
}

void prepare_for_trios(const Part& part) {
  const size_t n_words = part.n_words();
  uint8_t* planes = part.prepared;
  for (size_t row = 0; row < part.n_rows; row += kSliceRows, planes += n_slice_bytes(n_words))
    write_planes(part.words + row * n_words, smaller_of(kSliceRows, part.n_rows - row), n_words, planes);
}

// kDigits: the trio's, or 0 for any.
template <unsigned kDigits>
__attribute__((noinline)) void within_trio(const Part& part, const Trio& trio, size_t first, PartQueries& queries) {
  alignas(64) __m512i counts[kMostSlices][kClasses][kMostDigits];
  const unsigned n_digits = kDigits == 0 ? trio.n_digits : kDigits;
  const size_t n_slices = (part.n_rows + kSliceRows - 1) / kSliceRows, n_bytes = n_slice_bytes(part.n_words());
  const uint16_t* list = trio.lists();
  for (size_t i = 0; i < kClasses; list += trio.n_listed[i++])
    for (size_t slice = 0; slice < n_slices; ++slice)
      count_class(part.prepared + slice * n_bytes, list, trio.n_listed[i], n_digits, counts[slice][trio.classes[i]]);
  const size_t end = smaller_of(first + kTrio, queries.n);
  for (size_t slice = 0; slice < n_slices; ++slice) {
    Sums sums;
    const int64_t beyond = int64_t{1} << (n_digits + 2);
    for (size_t q = 0; q < kTrio; ++q) {
      const int64_t radius = first + q < end ? queries.radii[first + q] : 0;
      sums.limits[q] = static_cast<uint64_t>(smaller_of(radius - trio.offsets[q], beyond - 1) + beyond);
    }
    sum_up(counts[slice], n_digits, sums);
    for (size_t q = first; q < end; ++q) add_near_rows(part, slice * kSliceRows, q, sums.near[q - first], queries);
  }
}

size_t n_trio_plan_bytes(size_t n_bits, size_t n_queries) {
  return (n_queries + kTrio - 1) / kTrio * n_trio_bytes(n_bits);
}

void plan_trios(const uint64_t* queries, size_t n_queries, size_t n_bits, uint8_t* plan) {
  const size_t n_words = (n_bits + 63) / 64;
  for (size_t first = 0; first < n_queries; first += kTrio, plan += n_trio_bytes(n_bits))
    plan_trio(queries + first * n_words, n_queries - first, n_bits, *reinterpret_cast<Trio*>(plan));
}

void within_trios(const Part& part, PartQueries& queries) {
  for (size_t q = 0; q < queries.n; ++q) queries.n_hits[q] = 0;
  const uint8_t* plan = queries.plan;
  for (size_t first = 0; first < queries.n; first += kTrio, plan += n_trio_bytes(part.n_bits)) {
    const Trio& trio = *reinterpret_cast<const Trio*>(plan);
    if (trio.n_digits == 4) {
      within_trio<4>(part, trio, first, queries);
    } else if (trio.n_digits == 5) {
      within_trio<5>(part, trio, first, queries);
    } else if (trio.n_digits == 6) {
      within_trio<6>(part, trio, first, queries);
    } else if (trio.n_digits == 7) {
      within_trio<7>(part, trio, first, queries);
    } else {
      within_trio<0>(part, trio, first, queries);
    }
  }
}

static_assert(kPartQueries % kTrio == 0, "each batch's plan stands on its own");
constexpr Preparation kTrios = {trio_part_rows, n_trio_part_bytes, n_trio_plan_bytes,
                                plan_trios,     prepare_for_trios, within_trios};

}  // namespace

}  // namespace athsearch
