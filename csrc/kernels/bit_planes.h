// Bit planes and counters made of them, for AVX-512 kernels: a plane holds one bit of 512 rows.
//
// A full adder, two VPTERNLOGQ, makes of three planes of one weight one of that weight and one of twice the weight
// (Harley and Seal's counter, as in Mula, Kurz, Lemire 2018, arXiv 1611.07612, but down the rows of a database instead
// of along an array), so that 512 rows are counted at once. Zen 4 waits a cycle for VPTERNLOGQ's first operand, the one
// that is overwritten, and two for the others: so the first one is what comes last.
//
// Planes are made by bytes first, and VGF2P8AFFINEQB turns eight rows' bytes into eight planes' bytes. Per 64 bytes of
// rows: three loads, three stores, seven VPUNPCK[LH]BW, two VSHUFI64X2, VGF2P8AFFINEQB and VPSHUFB: 8.7 cycles on Zen 4
// by the units for shuffles.
#pragma once

#pragma GCC diagnostic push  // GCC 12 warns of its own header: bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <initializer_list>
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

// A slice: 512 rows at most. Row r is bit r % 64 of lane r / 64 of its planes. Plane i of a word's column is bit i of
// the word. A place after each column keeps them from sharing places in caches; that of the first is a zero plane.
constexpr size_t kSliceRows = 512;
constexpr size_t kPlaneBytes = 64;
constexpr size_t kColumnPlanes = 65;
constexpr size_t kZeroPlane = 64;
constexpr size_t n_slice_bytes(size_t n_words) { return n_words * kColumnPlanes * kPlaneBytes; }
constexpr size_t kScratchBytes = 64 * kPlaneBytes;

ALWAYS_INLINE __m512i load(const uint8_t* plane) { return _mm512_loadu_si512(plane); }

// Of register r, byte 2 k + i of each 16-byte lane becomes byte 8 i + r of that lane of register k.
inline void interleave(__m512i x[8]) {
  for (size_t apart : {4, 2, 1})
    for (size_t i = 0; i < 8; ++i) {
      if (i & apart) continue;
      const __m512i low = _mm512_unpacklo_epi8(x[i], x[i + apart]);
      x[i + apart] = _mm512_unpackhi_epi8(x[i], x[i + apart]);
      x[i] = low;
    }
}

// Writes each word of a slice's rows to a column of its own. Register r of a column is of rows 64 g + r: its byte
// 16 l + 2 b + i is byte b of row 64 (2 l + i) + r.
inline void write_columns(const uint64_t* words, size_t n_rows, size_t n_words, uint8_t* columns) {
  const size_t n_all = n_rows * n_words;
  size_t row = 0, word = 0;  // of the first of eight words of rows 64 g
  for (size_t at = 0; at < 64 * n_words; at += 8) {
    __m512i x[8], pairs[8], fours[8];
    for (size_t i = 0; i < 8; ++i) {
      const size_t begin = 64 * i * n_words + at, n = begin >= n_all ? 0 : n_all - begin;
      const auto present = static_cast<__mmask8>(n >= 8 ? 0xff : (1u << n) - 1);
      x[i] = _mm512_maskz_loadu_epi64(present, words + begin);
    }
    for (size_t i = 0; i < 8; i += 2) {
      pairs[i] = _mm512_unpacklo_epi8(x[i], x[i + 1]);  // words 0, 2, 4, 6 of two rows
      pairs[i + 1] = _mm512_unpackhi_epi8(x[i], x[i + 1]);
    }
    for (size_t i : {0, 1, 4, 5}) {
      fours[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0x88);  // words i and i + 4 of two rows, then of two more
      fours[i + 2] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0xdd);
    }
    for (size_t i = 0; i < 4; ++i) {
      x[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
      x[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
    for (size_t i = 0; i < 8; ++i) {
      _mm512_storeu_si512(columns + (word * kColumnPlanes + row) * kPlaneBytes, x[i]);
      if (++word < n_words) continue;
      word = 0;
      ++row;
    }
  }
}

template <class Use, size_t... kNumber>
ALWAYS_INLINE void each_of(Use use, std::index_sequence<kNumber...>) {
  (use(std::integral_constant<size_t, kNumber>()), ...);
}

// Writes a slice's planes. Calls use(i, planes) for planes 8 i to 8 i + 7 of each word, i from 0 to 7, a type's value.
// words: row-major [n_rows, n_words]. scratch: kScratchBytes, aligned to 64.
template <class Use>
ALWAYS_INLINE void write_planes(const uint64_t* words, size_t n_rows, size_t n_words, uint8_t* planes, uint8_t* scratch,
                                Use use) {
  write_columns(words, n_rows, n_words, planes);
  const __m512i bits = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201));
  const __m512i order = _mm512_set4_epi32(0x0f070e06, 0x0d050c04, 0x0b030a02, 0x09010800);
  // The next slice's rows come from memory while this one is searched. They may lie beyond the database.
  auto next = reinterpret_cast<uintptr_t>(words) + kSliceRows * n_words * sizeof(uint64_t);
  const auto fetch = [&] {
    for (size_t i = 0; i < 4; ++i, next += kPlaneBytes) __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
  };
  for (size_t word = 0; word < n_words; ++word) {
    uint8_t* column = planes + word * kColumnPlanes * kPlaneBytes;
    __m512i x[8];
    for (size_t eight = 0; eight < 8; ++eight) {
      fetch();
      for (size_t i = 0; i < 8; ++i) x[i] = load(column + (8 * eight + 7 - i) * kPlaneBytes);
      interleave(x);
      // Bit b of byte 8 i + r of a lane becomes bit 7 - r of byte 8 i + b, and that byte 2 b + i.
      for (size_t i = 0; i < 8; ++i) {
        const __m512i turned = _mm512_gf2p8affine_epi64_epi8(bits, x[i], 0);
        _mm512_storeu_si512(scratch + (8 * i + eight) * kPlaneBytes, _mm512_shuffle_epi8(turned, order));
      }
    }
    const auto write_eight = [&](auto eight) {
      fetch();
      for (size_t i = 0; i < 8; ++i) x[i] = load(scratch + (8 * eight.value + i) * kPlaneBytes);
      interleave(x);
      for (size_t i = 0; i < 8; ++i) _mm512_storeu_si512(column + (8 * eight.value + i) * kPlaneBytes, x[i]);
      use(eight, x);
    };
    each_of(write_eight, std::make_index_sequence<8>());
  }
  _mm512_storeu_si512(planes + kZeroPlane * kPlaneBytes, _mm512_setzero_si512());
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

constexpr unsigned bit_length(size_t value) { return value == 0 ? 0 : 1 + bit_length(value / 2); }

alignas(64) constexpr uint64_t kAllOrNone[2][8] = {{}, {~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull}};

// Of the rows that are `near` by the lower digits of a number and of its limit, and by this plane of the numbers and
// digit of the limit: not plane & digit, or near where they are equal.
ALWAYS_INLINE __m512i near_by(__m512i plane, uint64_t limit, size_t digit, __m512i near) {
  return _mm512_ternarylogic_epi64(near, plane, _mm512_loadu_si512(kAllOrNone[limit >> digit & 1]), 0xb2);
}

// Writes hits for a slice's rows that are near. first: row 0 of the slice within the part. lanes: those of `near` that
// are not zero.
inline size_t write_near_rows(const Part& part, size_t first, const uint64_t* query, __m512i near, unsigned lanes,
                              Hit* hits) {
  alignas(64) uint64_t rows_of[8];
  _mm512_storeu_si512(rows_of, near);
  const size_t n_words = part.n_words();
  size_t n_hits = 0;
  for (; lanes != 0; lanes &= lanes - 1) {
    const auto lane = static_cast<size_t>(__builtin_ctz(lanes));
    for (uint64_t rows = rows_of[lane]; rows != 0; rows &= rows - 1) {
      const size_t row = first + 64 * lane + static_cast<size_t>(__builtin_ctzll(rows));
      if (row >= part.n_rows) return n_hits;
      const uint64_t* code = part.words + row * n_words;
      uint64_t distance = n_differing(query[0], code[0]);
      for (size_t word = 1; word < n_words; ++word) distance += n_differing(query[word], code[word]);
      hits[n_hits++] = make_hit(distance, part.first_row + row);
    }
  }
  return n_hits;
}

// Adds a query's hits in a slice to those it has. Nothing for one that wants none.
ALWAYS_INLINE void add_near_rows(const Part& part, size_t first, size_t q, __m512i near, PartQueries& queries) {
  const unsigned lanes = _mm512_test_epi64_mask(near, near);
  if (lanes == 0 || queries.radii[q] < 0) return;
  const uint64_t* query = queries.words + q * part.n_words();
  queries.n_hits[q] += write_near_rows(part, first, query, near, lanes, queries.hits[q] + queries.n_hits[q]);
}

}  // namespace

}  // namespace athsearch
