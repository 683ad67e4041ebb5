// Bit planes and counters made of them, for AVX-512 kernels: a plane holds one bit of 512 rows.
//
// A full adder, two VPTERNLOGQ, makes of three planes of one weight one of that weight and one of twice the weight
// (Harley and Seal's counter, as in Mula, Kurz, Lemire 2018, arXiv 1611.07612, but down the rows of a database instead
// of along an array), so that 512 rows are counted at once. Zen 4 waits a cycle for VPTERNLOGQ's first operand, the one
// that is overwritten, and two for the others: so the first one is what comes last.
//
// Planes are made by bytes first, and VGF2P8AFFINEQB turns eight rows' bytes into eight planes' bytes. Loads of 16
// bytes, three of four into a lane of a register that has been loaded before, bring words of four rows together, and
// never cross a cache line of NumPy's arrays, which begin 16 bytes after one. Per 64 bytes of rows: five loads, two
// stores, seven VPUNPCK[LH]BW, 1.5 a cycle on Zen 4, and a VGF2P8AFFINEQB, one a cycle: 5.7 cycles.
#pragma once

#pragma GCC diagnostic push  // GCC 12 warns of its own header: bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <utility>

#include "../scan.h"
#include "popcnt_rows.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace athsearch {

// Each kernel has its own copy, made with the instructions that it may use.
namespace {

template <class Number>
constexpr Number smaller_of(Number a, Number b) {
  return b < a ? b : a;
}

template <class Number>
constexpr Number larger_of(Number a, Number b) {
  return a < b ? b : a;
}

// A slice: 512 rows at most. Rows 64 l to 64 l + 63 are lane l of its planes, in an order that costs least to make (see
// in_order). Plane i of a word's column is bit i of the word. A place after each column keeps them from sharing places
// in caches; that of the first is a zero plane.
constexpr size_t kSliceRows = 512;
static_assert(kSliceRows <= kMostPartRows);
constexpr size_t kPlaneBytes = 64;
constexpr size_t kColumnPlanes = 65;
constexpr size_t kZeroPlane = 64;
constexpr size_t n_slice_bytes(size_t n_words) { return n_words * kColumnPlanes * kPlaneBytes; }

// The bits of a plane's lane in the order of rows. Of each sixteen, the lower eight are even rows, the others odd ones.
inline uint64_t in_order(uint64_t lane) {
  constexpr uint64_t kMiddle[3] = {0x00f000f000f000f0, 0x0c0c0c0c0c0c0c0c, 0x2222222222222222};
  for (unsigned i = 0, by = 4; i < 3; ++i, by /= 2) {
    const uint64_t swapped = (lane ^ lane >> by) & kMiddle[i];
    lane ^= swapped ^ swapped << by;
  }
  return lane;
}

ALWAYS_INLINE __m512i load(const uint8_t* plane) { return _mm512_loadu_si512(plane); }

// How many of the lines ahead to fetch at each of n_steps steps.
inline size_t n_lines_a_step(const Ahead& ahead, size_t n_steps) { return (ahead.n_lines + n_steps - 1) / n_steps; }

// Fetches n of the lines ahead, from line `first` on, or what is left of them.
ALWAYS_INLINE void fetch(const Ahead& ahead, size_t first, size_t n) {
  const size_t end = smaller_of(first + n, ahead.n_lines);
  for (size_t line = first; line < end; ++line)
    __builtin_prefetch(reinterpret_cast<const void*>(ahead.begin + line * kPlaneBytes), 0, 2);
}

// Of n registers, 8 or 16: byte 16 / n * k + i (i < 16 / n) of a 16-byte lane of register r becomes byte n i + r of
// that lane of register k.
template <size_t kRegisters>
ALWAYS_INLINE void interleave(__m512i* x) {
#pragma GCC unroll 4
  for (size_t apart = kRegisters / 2; apart != 0; apart /= 2)
#pragma GCC unroll 16
    for (size_t i = 0; i < kRegisters; ++i) {
      if (i & apart) continue;
      const __m512i low = _mm512_unpacklo_epi8(x[i], x[i + apart]);
      x[i + apart] = _mm512_unpackhi_epi8(x[i], x[i + apart]);
      x[i] = low;
    }
}

// Two words from each of four places, `apart` words from one to the next. Zeros from `end` on, but not if kIsWhole.
template <bool kIsWhole>
ALWAYS_INLINE __m512i load_pairs(const uint64_t* from, size_t apart, const uint64_t* end) {
  const auto pair = [&](size_t i) {
    const uint64_t* at = from + i * apart;
    if (kIsWhole || at + 2 <= end) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return at < end ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)) : _mm_setzero_si128();
  };
  __m512i x = _mm512_castsi128_si512(pair(0));
  x = _mm512_mask_broadcast_i32x4(x, 0x00f0, pair(1));
  x = _mm512_mask_broadcast_i32x4(x, 0x0f00, pair(2));
  return _mm512_mask_broadcast_i32x4(x, 0xf000, pair(3));
}

// Writes bytes whose bits are those of eight rows: to register 16 k + s of a word's column, for bits 16 k to 16 k + 15,
// those of rows 16 (s / 2 % 4) + 2 r + s % 2 of blocks 2 l + s / 8, r from 0 to 7, in the bytes of 16-byte lane l. A
// block is 64 rows. n_fetched: lines at each of 8 n_words steps.
template <bool kIsWhole>
__attribute__((noinline)) void write_columns(const Part& part, size_t n_fetched) {
  const __m512i bits = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201));
  const size_t n_words = part.n_words(), block = 64 * n_words;
  const uint64_t* end = part.words + part.n_rows * n_words;
  for (size_t sixteen = 0; sixteen < 8; ++sixteen) {  // rows: four times those of even blocks, then those of odd ones
    const uint64_t* words = part.words + sixteen / 4 * block + sixteen % 4 * (16 * n_words);
    size_t word = 0, is_odd_row = 0;
    for (size_t pair = 0; pair < n_words; ++pair) {
      fetch(part.ahead, (sixteen * n_words + pair) * n_fetched, n_fetched);
      __m512i x[8];
      const uint64_t* from = words + 2 * pair;
#pragma GCC unroll 8
      for (size_t r = 0; r < 8; ++r) {
        x[7 - r] = load_pairs<kIsWhole>(from, 2 * block, end);
        from += 2 * n_words;
        asm volatile("" : "+r"(from));  // lest all addresses be kept at once
      }
      interleave<8>(x);
#pragma GCC unroll 2
      for (size_t i = 0; i < 2; ++i) {
        uint8_t* column = part.prepared + (word * kColumnPlanes + 2 * sixteen + is_odd_row) * kPlaneBytes;
        // Byte 8 j + 7 - r of a lane is byte j of row r's two. Bit b of it becomes bit r of byte 8 j + b.
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; ++k)
          _mm512_storeu_si512(column + 16 * k * kPlaneBytes, _mm512_gf2p8affine_epi64_epi8(bits, x[4 * i + k], 0));
        if (++word < n_words) continue;
        word = 0;
        ++is_odd_row;
      }
    }
  }
}

template <class Use, size_t... kNumber>
ALWAYS_INLINE void each_of(Use use, std::index_sequence<kNumber...>) {
  (use(std::integral_constant<size_t, kNumber>()), ...);
}

// Writes a slice's planes. Calls use(i, planes) for planes 8 i to 8 i + 7 of each word, i from 0 to 7, a type's value.
template <class Use>
ALWAYS_INLINE void write_planes(const Part& part, Use use) {
  const size_t n_words = part.n_words();
  const size_t n_fetched = n_lines_a_step(part.ahead, 12 * n_words);
  if (part.n_rows == kSliceRows) {
    write_columns<true>(part, n_fetched);
  } else {
    write_columns<false>(part, n_fetched);
  }
  for (size_t word = 0; word < n_words; ++word) {
    const auto write_sixteen = [&](auto sixteen) {
      uint8_t* column = part.prepared + (word * kColumnPlanes + 16 * sixteen.value) * kPlaneBytes;
      fetch(part.ahead, (8 * n_words + 4 * word + sixteen.value) * n_fetched, n_fetched);
      __m512i x[16];
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; ++i) x[i] = load(column + i * kPlaneBytes);
      interleave<16>(x);
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(column + i * kPlaneBytes, x[i]);
      use(std::integral_constant<size_t, 2 * sixteen.value>(), x);
      use(std::integral_constant<size_t, 2 * sixteen.value + 1>(), x + 8);
    };
    each_of(write_sixteen, std::make_index_sequence<4>());
  }
  _mm512_storeu_si512(part.prepared + kZeroPlane * kPlaneBytes, _mm512_setzero_si512());
}

// A counter of 512 rows: at most two planes of each weight 1, 2, 4, ... How many there are of each is known where the
// code is made: two bits a weight of a number, here always named kCounts.
constexpr unsigned kCounterWeights = 8;
using Counter = __m512i[kCounterWeights][2];

constexpr unsigned count_of(uint64_t counts, unsigned weight) { return counts >> 2 * weight & 3; }
constexpr uint64_t one_of(unsigned weight) { return uint64_t{1} << 2 * weight; }
constexpr uint64_t after_push(uint64_t counts, unsigned weight) {
  for (; count_of(counts, weight) == 2; ++weight) counts -= one_of(weight);
  return counts + one_of(weight);
}

constexpr uint64_t after_pushes(size_t n) { return n == 0 ? 0 : after_push(after_pushes(n - 1), 0); }

template <uint64_t kCounts, unsigned kWeight>
ALWAYS_INLINE void push(Counter& counter, __m512i plane) {
  if constexpr (count_of(kCounts, kWeight) < 2) {
    counter[kWeight][count_of(kCounts, kWeight)] = plane;
  } else {
    // Planes of weight 1 come from memory, in time; those of other weights have just been made.
    const __m512i late = kWeight == 0 ? counter[0][0] : plane, early = kWeight == 0 ? plane : counter[kWeight][0];
    const __m512i other = counter[kWeight][1];
    const __m512i carry = _mm512_ternarylogic_epi64(late, early, other, 0xe8);
    counter[kWeight][0] = _mm512_ternarylogic_epi64(late, early, other, 0x96);
    push<kCounts - one_of(kWeight), kWeight + 1>(counter, carry);
  }
}

// Leaves one plane of each weight from kWeight on, in its first place.
template <uint64_t kCounts, unsigned kWeight>
ALWAYS_INLINE void settle(Counter& counter) {
  if constexpr (kWeight + 1 < kCounterWeights) {
    if constexpr (count_of(kCounts, kWeight) == 2) {
      const __m512i a = counter[kWeight][0], b = counter[kWeight][1];
      counter[kWeight][0] = _mm512_xor_si512(a, b);
      constexpr uint64_t kFewer = kCounts - one_of(kWeight);
      push<kFewer, kWeight + 1>(counter, _mm512_and_si512(a, b));
      settle<after_push(kFewer, kWeight + 1), kWeight + 1>(counter);
    } else {
      if constexpr (count_of(kCounts, kWeight) == 0) counter[kWeight][0] = _mm512_setzero_si512();
      settle<kCounts, kWeight + 1>(counter);
    }
  }
}

constexpr unsigned bit_length(uint64_t value) {
  return value == 0 ? 0 : 64 - static_cast<unsigned>(__builtin_clzll(value));
}

alignas(64) constexpr uint64_t kAllOrNone[2][8] = {{}, {~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull}};

// Of the rows that are `near` by the lower digits of a number and of its limit, and by this plane of the numbers and
// digit of the limit: not plane & digit, or near where they are equal.
ALWAYS_INLINE __m512i near_by(__m512i plane, uint64_t limit, size_t digit, __m512i near) {
  return _mm512_ternarylogic_epi64(near, plane, _mm512_loadu_si512(kAllOrNone[limit >> digit & 1]), 0xb2);
}

// Writes a query's hits: a slice's rows that are near. lanes: those of `near` that are not zero.
__attribute__((noinline)) size_t write_near_rows(const Part& part, const uint64_t* query, __m512i near, unsigned lanes,
                                                 Hit* hits) {
  alignas(64) uint64_t rows_of[8];
  _mm512_storeu_si512(rows_of, near);
  const size_t n_words = part.n_words();
  size_t n_hits = 0;
  for (; lanes != 0; lanes &= lanes - 1) {
    const auto lane = static_cast<size_t>(__builtin_ctz(lanes));
    for (uint64_t rows = in_order(rows_of[lane]); rows != 0; rows &= rows - 1) {
      const size_t row = 64 * lane + static_cast<size_t>(__builtin_ctzll(rows));
      if (row >= part.n_rows) return n_hits;
      const uint64_t* code = part.words + row * n_words;
      uint64_t distance = n_differing(query[0], code[0]);
      for (size_t word = 1; word < n_words; ++word) distance += n_differing(query[word], code[word]);
      hits[n_hits++] = make_hit(distance, part.first_row + row);
    }
  }
  return n_hits;
}

// Writes query q's hits in a slice. None for one that wants none.
ALWAYS_INLINE void add_near_rows(const Part& part, size_t q, __m512i near, PartQueries& queries) {
  queries.n_hits[q] = 0;
  const unsigned lanes = _mm512_test_epi64_mask(near, near);
  if (lanes == 0 || queries.radii[q] < 0) return;
  const uint64_t* query = queries.words + q * part.n_words();
  queries.n_hits[q] = write_near_rows(part, query, near, lanes, queries.hits[q]);
}

}  // namespace

}  // namespace athsearch
