// Rows within a radius for CPUs with AVX-512 VPOPCNTDQ (Ice Lake, Zen 4 and later).
//
// For few queries of several words: POPCNT (popcnt_rows.h). For few of one word: VPOPCNTQ, eight rows a register.
// Per eight rows: VPXORQ (with the load) and VPOPCNTQ; per 32 rows 3 VPMINUQ, VPCMPUQ and a branch that is rarely taken
// once the radius is tight. The tail is a masked load: bytes past the array are never touched.
//
// For many queries: bit planes and full adders. A plane holds one bit of 512 rows, and counting is done for 512 rows at
// once: a full adder, two VPTERNLOGQ, makes of three planes of one weight one of that weight and one of twice the
// weight (Harley and Seal's counter, as in Mula, Kurz, Lemire 2018, arXiv 1611.07612, but down the rows of a
// database instead of along an array). What differs between queries is which bits are inverted, and there are only
// eight ways to invert three: the outcome of a first full adder of three bits, sum and carry, is prepared for each way,
// so that a query only picks its own. Per 512 rows and three bits: two loads, and two full adders instead of three;
// the comparison with the radius is one VPTERNLOGQ a plane of the distance. So 1.33 operations for eight rows and 64
// bits, where VPXORQ, VPOPCNTQ, VPADDQ are three, and no popcount port is in the way.
// Limits: two operations a cycle on Zen 4, whose units are half as wide, so 12 rows of 64 bits a cycle; one 64-byte
// load a cycle. What is prepared of 66 bits, 14 KiB, fits the L1 cache; that of codes up to
// 1024 bits comes from L2 without loss.
//
// Measured on Zen 4 at 3.65 GHz (benchmarks/results/scan-avx512_vpopcntdq.json), 256 queries, one thread: 46 % of that
// limit at 64 bits, 52 % at 256, where VPOPCNTQ, one a cycle, could not pass 44 % with its VPXORQ and VPADDQ;
// VPTERNLOGQ alone, its operands in registers, does not pass three in two cycles. One query of 64 bits over ten million
// rows takes 99 % of the read bandwidth on two threads and more than a plain sum does on one.
#pragma GCC diagnostic push  // GCC 12 warns of its own header: bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <type_traits>
#include <utility>

#include "../scan.h"
#include "popcnt_rows.h"

namespace athsearch {

namespace {

// Writes those of eight rows that are within the radius.
inline size_t write_hits(__m512i distance_u64x8, __mmask8 near, uint64_t row, Hit* hits) {
  const __m512i row_u64x8 =
      _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(row)), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  const __m512i hit_u64x8 = _mm512_or_si512(_mm512_slli_epi64(distance_u64x8, kRowBits), row_u64x8);
  // The form that compresses straight to memory is microcoded on Zen 4.
  _mm512_storeu_si512(hits, _mm512_maskz_compress_epi64(near, hit_u64x8));
  return static_cast<size_t>(__builtin_popcount(near));
}

size_t within_words(uint64_t query, const Block& block, uint64_t radius, Hit* hits) {
  const __m512i query_u64x8 = _mm512_set1_epi64(static_cast<long long>(query));
  const __m512i radius_u64x8 = _mm512_set1_epi64(static_cast<long long>(radius));
  const auto distances = [&](size_t row, __mmask8 present) {
    const __m512i code_u64x8 = _mm512_maskz_loadu_epi64(present, block.words + row);
    return _mm512_popcnt_epi64(_mm512_xor_si512(code_u64x8, query_u64x8));
  };
  size_t row = 0, n_hits = 0;
  for (; row + 32 <= block.n_rows; row += 32) {
    __m512i distance_u64x8[4];
    for (size_t i = 0; i < 4; ++i) distance_u64x8[i] = distances(row + 8 * i, 0xff);
    const __m512i nearest_u64x8 = _mm512_min_epu64(_mm512_min_epu64(distance_u64x8[0], distance_u64x8[1]),
                                                   _mm512_min_epu64(distance_u64x8[2], distance_u64x8[3]));
    if (_mm512_cmple_epu64_mask(nearest_u64x8, radius_u64x8) == 0) continue;
    for (size_t i = 0; i < 4; ++i) {
      const __mmask8 near = _mm512_cmple_epu64_mask(distance_u64x8[i], radius_u64x8);
      n_hits += write_hits(distance_u64x8[i], near, block.first_row + row + 8 * i, hits + n_hits);
    }
  }
  for (; row < block.n_rows; row += 8) {
    const size_t n_left = block.n_rows - row;
    const auto present = static_cast<__mmask8>(n_left >= 8 ? 0xff : (1u << n_left) - 1);
    const __m512i distance_u64x8 = distances(row, present);
    const __mmask8 near = _mm512_mask_cmple_epu64_mask(present, distance_u64x8, radius_u64x8);
    n_hits += write_hits(distance_u64x8, near, block.first_row + row, hits + n_hits);
  }
  return n_hits;
}

size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  return block.n_words == 1 ? within_words(query[0], block, radius, hits)
                            : within_by_popcnt(query, block, radius, hits);
}

// Row r of a part is bit r % 64 of lane r / 64 of its planes.
//
// A prepared part: room for the words on their way to planes; then for every three planes (a, b, c), the last planes
// zero: a ^ b ^ c and its inverse, and the carries of a + b + c where query bits 0 to 7 invert some of them.
constexpr size_t kPlaneBytes = 64;
constexpr size_t kTripleBytes = 10 * kPlaneBytes;
constexpr size_t kTriplesAtOnce = 22;
constexpr size_t kBitsAtOnce = 3 * kTriplesAtOnce;
// Triples of a code are counted kTriplesAtOnce at a time, the last ones so many at least: what 16, 32, 48 and 64 bits
// need.
constexpr size_t kLastSizes[] = {6, 11, 16, kTriplesAtOnce};

struct Chunks {
  size_t n, n_last;  // chunks, and triples of the last one

  explicit constexpr Chunks(size_t n_bits) : n((n_bits + kBitsAtOnce - 1) / kBitsAtOnce), n_last(kTriplesAtOnce) {
    for (const size_t size : kLastSizes)
      if (3 * size + (n - 1) * kBitsAtOnce >= n_bits && size < n_last) n_last = size;
  }
  constexpr size_t n_triples() const { return (n - 1) * kTriplesAtOnce + n_last; }
};

constexpr size_t kColumnBytes = 65 * kPlaneBytes;  // of a word of all rows; whole pages would share places in caches
constexpr size_t n_column_bytes(size_t n_bits) { return (n_bits + 63) / 64 * kColumnBytes; }
constexpr size_t n_eights(size_t n_bits) { return (n_bits + 63) / 64 * 8; }  // of planes
size_t n_prepared_bytes(size_t n_bits) {
  return n_column_bytes(n_bits) + (Chunks(n_bits).n_triples() + 7) / 8 * 8 * kTripleBytes;
}

// Preparing one word costs as much as 30 queries of one word save; POPCNT takes longer with eight of several words.
bool pays(size_t n_bits, size_t n_queries) { return n_queries >= (n_bits <= 64 ? 30 : 8); }

inline __m512i load(const uint8_t* plane) { return _mm512_loadu_si512(plane); }

// In each lane the bits of registers i and i + 1, i + 2, ... are those of a 64 x 64 matrix's rows: exchanges the
// off-diagonal quarters of each 2 kBits x 2 kBits block, kBits = 4 kLast, 2 kLast and kLast, of eight rows kLast apart.
template <unsigned kBits>
inline void exchange(__m512i& a, __m512i& b) {
  constexpr uint64_t kLow = ~uint64_t{0} / ((uint64_t{1} << kBits) + 1);  // kBits ones, kBits zeros, ...
  const __m512i low = _mm512_set1_epi64(static_cast<long long>(kLow));
  const __m512i first = _mm512_ternarylogic_epi64(low, a, _mm512_slli_epi64(b, kBits), 0xca);
  b = _mm512_ternarylogic_epi64(low, _mm512_srli_epi64(a, kBits), b, 0xca);
  a = first;
}

// Exchanges 4 kLast, then 2 kLast, then kLast bits of eight rows that lie kLast apart.
template <unsigned kLast>
inline void exchange_eight(__m512i x[8]) {
  for (size_t i = 0; i < 4; ++i) exchange<4 * kLast>(x[i], x[i + 4]);
  for (size_t i : {0, 1, 4, 5}) exchange<2 * kLast>(x[i], x[i + 2]);
  for (size_t i : {0, 2, 4, 6}) exchange<kLast>(x[i], x[i + 1]);
}

// Transposes a matrix of 8 x 8 words, a row a register.
inline void transpose(__m512i x[8]) {
  __m512i pairs[8], fours[8];
  for (size_t i = 0; i < 8; i += 2) {
    pairs[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);  // words 0, 2, 4, 6 of two rows
    pairs[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
  }
  for (size_t i : {0, 1, 4, 5}) {
    fours[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0x88);  // words i and i + 4 of two rows, then of two more
    fours[i + 2] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0xdd);
  }
  for (size_t i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
    x[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
  }
}

// Writes each word of a part's rows to a column of its own: in its register r are rows 64 i + r, in lane i.
inline void write_columns(const Part& part) {
  const size_t n_words = part.n_words(), n_all = part.n_rows * n_words;
  size_t row = 0, word = 0;  // of lane 0
  for (size_t at = 0; at < 64 * n_words; at += 8) {
    __m512i x[8];
    for (size_t i = 0; i < 8; ++i) {
      const size_t begin = 64 * i * n_words + at, n = begin >= n_all ? 0 : n_all - begin;
      const auto present = static_cast<__mmask8>(n >= 8 ? 0xff : (1u << n) - 1);
      x[i] = _mm512_maskz_loadu_epi64(present, part.words + begin);
      // The next part's comes from memory while this one is searched. It may lie beyond the rows.
      const auto next = reinterpret_cast<uintptr_t>(part.words + begin) + kPartRows * n_words * 8;
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
    }
    transpose(x);
    for (size_t i = 0; i < 8; ++i) {
      _mm512_storeu_si512(part.prepared + word * kColumnBytes + row * kPlaneBytes, x[i]);
      if (++word < n_words) continue;
      word = 0;
      ++row;
    }
  }
}

// The truth table, as VPTERNLOGQ takes it, of the carry of three bits where those of `query` are inverted.
constexpr int carry_table(unsigned query) {
  int table = 0;
  for (unsigned bits = 0; bits < 8; ++bits) {
    const unsigned a = (bits >> 2 ^ query) & 1, b = (bits >> 1 ^ query >> 1) & 1, c = (bits ^ query >> 2) & 1;
    if (a + b + c >= 2) table |= 1 << bits;
  }
  return table;
}

template <size_t... kQuery>
inline void write_triple(__m512i a, __m512i b, __m512i c, uint8_t* triple, std::index_sequence<kQuery...>) {
  _mm512_storeu_si512(triple, _mm512_ternarylogic_epi64(a, b, c, 0x96));
  _mm512_storeu_si512(triple + kPlaneBytes, _mm512_ternarylogic_epi64(a, b, c, 0x69));
  (_mm512_storeu_si512(triple + (2 + kQuery) * kPlaneBytes,
                       _mm512_ternarylogic_epi64(a, b, c, (std::integral_constant<int, carry_table(kQuery)>::value))),
   ...);
}

// Writes the triples of 24 planes, eights `first` to first + 2 of n, from columns whose rows 8 apart are exchanged.
inline void write_triples(const uint8_t* columns, size_t first, size_t n, uint8_t* triples) {
  constexpr auto kQueries = std::make_index_sequence<8>();
  __m512i x[8], last, before_last;
  const auto load_eight = [&](size_t number) {
    const uint8_t* from = columns + number / 8 * kColumnBytes + number % 8 * 8 * kPlaneBytes;
    for (size_t i = 0; i < 8; ++i) x[i] = number < n ? load(from + i * kPlaneBytes) : _mm512_setzero_si512();
    exchange_eight<1>(x);
  };
  const auto write = [&](size_t triple, __m512i a, __m512i b, __m512i c) {
    write_triple(a, b, c, triples + triple * kTripleBytes, kQueries);
  };
  load_eight(first);
  write(0, x[0], x[1], x[2]);
  write(1, x[3], x[4], x[5]);
  before_last = x[6];
  last = x[7];
  load_eight(first + 1);
  write(2, before_last, last, x[0]);
  write(3, x[1], x[2], x[3]);
  write(4, x[4], x[5], x[6]);
  last = x[7];
  load_eight(first + 2);
  write(5, last, x[0], x[1]);
  write(6, x[2], x[3], x[4]);
  write(7, x[5], x[6], x[7]);
}

void prepare(const Part& part) {
  const size_t n_words = part.n_words();
  write_columns(part);
  for (size_t word = 0; word < n_words; ++word)
    for (size_t first = 0; first < 8; ++first) {
      uint8_t* rows = part.prepared + word * kColumnBytes + first * kPlaneBytes;
      __m512i x[8];
      for (size_t i = 0; i < 8; ++i) x[i] = load(rows + 8 * i * kPlaneBytes);
      exchange_eight<8>(x);
      for (size_t i = 0; i < 8; ++i) _mm512_storeu_si512(rows + 8 * i * kPlaneBytes, x[i]);
    }
  uint8_t* triples = part.prepared + n_column_bytes(part.n_bits);
  for (size_t i = 0; i < Chunks(part.n_bits).n_triples(); i += 8)
    write_triples(part.prepared, i / 8 * 3, n_eights(part.n_bits), triples + i * kTripleBytes);
}

// A counter of 512 rows: at most two planes of each weight 1, 2, 4, ... How many there are of each is known where the
// code is made: two bits a weight of a number, here always named kCounts.
constexpr unsigned kMostWeights = 12;
using Counter = __m512i[kMostWeights][2];

constexpr unsigned count_of(uint64_t counts, unsigned weight) { return counts >> 2 * weight & 3; }
constexpr uint64_t one_of(unsigned weight) { return uint64_t{1} << 2 * weight; }
constexpr uint64_t after_push(uint64_t counts, unsigned weight) {
  for (; count_of(counts, weight) == 2; ++weight) counts -= one_of(weight);
  return counts + one_of(weight);
}
constexpr uint64_t after_triples(uint64_t counts, size_t n) {
  for (; n != 0; --n) counts = after_push(after_push(counts, 0), 1);
  return counts;
}

#define ALWAYS_INLINE inline __attribute__((always_inline))

template <uint64_t kCounts, unsigned kWeight>
ALWAYS_INLINE void push(Counter& counter, __m512i plane) {
  if constexpr (count_of(kCounts, kWeight) < 2) {
    counter[kWeight][count_of(kCounts, kWeight)] = plane;
  } else {
    const __m512i a = counter[kWeight][0], b = counter[kWeight][1];
    counter[kWeight][0] = _mm512_ternarylogic_epi64(a, b, plane, 0x96);
    push<kCounts - one_of(kWeight), kWeight + 1>(counter, _mm512_ternarylogic_epi64(a, b, plane, 0xe8));
  }
}

// Leaves one plane of each weight from kWeight on, in its first place.
template <uint64_t kCounts, unsigned kWeight>
ALWAYS_INLINE void settle(Counter& counter) {
  if constexpr (kWeight + 1 < kMostWeights) {
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

// The kBitsAtOnce bits of a query that a chunk is compared with.
struct ChunkBits {
  uint64_t bits, later_bits;
};

// Writes those of n chunks. The query's bits past its end count as zeros.
__attribute__((noinline)) void split(const uint64_t* query, size_t n_words, size_t n, ChunkBits* chunks) {
  const auto word = [&](size_t i) { return i < n_words ? query[i] : 0; };
  chunks[0] = {word(0), word(1)};
  for (size_t i = 1; i < n; ++i) {
    const size_t first = i * kBitsAtOnce / 64, shift = i * kBitsAtOnce % 64;
    chunks[i] = {word(first) >> shift, word(first + 1) >> shift};
    if (shift == 0) continue;
    chunks[i].bits |= word(first + 1) << (64 - shift);
    chunks[i].later_bits |= word(first + 2) << (64 - shift);
  }
}

// (bits >> kBit) % (kMask + 1) planes on.
template <unsigned kBit, uint64_t kMask>
ALWAYS_INLINE const uint8_t* planes_on(const uint8_t* from, uint64_t bits) {
  if constexpr (kBit >= 6) return from + (bits >> (kBit - 6) & kMask * kPlaneBytes);
  return from + (bits << (6 - kBit) % 64 & kMask * kPlaneBytes);
}

// Counts triples kTriple to kTriples - 1 of a chunk.
template <size_t kTriple, size_t kTriples, uint64_t kCounts>
ALWAYS_INLINE void count_triples(const uint8_t* triples, uint64_t query, uint64_t parities, uint64_t later_bits,
                                 Counter& counter) {
  if constexpr (kTriple < kTriples) {
    const uint8_t* sums = triples + kTriple * kTripleBytes;
    const uint8_t* carries = sums + 2 * kPlaneBytes;
    if constexpr (3 * kTriple + 2 < 64) {
      sums = planes_on<3 * kTriple, 1>(sums, parities);
      carries = planes_on<3 * kTriple, 7>(carries, query);
    } else {
      const uint64_t last = query >> 63 | (later_bits & 3) << 1;
      sums = planes_on<0, 1>(sums, last ^ last >> 1 ^ last >> 2);
      carries = planes_on<0, 7>(carries, last);
    }
    constexpr uint64_t kWithSum = after_push(kCounts, 0);
    push<kCounts, 0>(counter, load(sums));
    push<kWithSum, 1>(counter, load(carries));
    count_triples<kTriple + 1, kTriples, after_push(kWithSum, 1)>(triples, query, parities, later_bits, counter);
  }
}

alignas(64) constexpr uint64_t kAllOrNone[2][8] = {{}, {~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull}};

// Of the rows that are `near` by the lower bits of their distances and of the radius, and by this plane of the
// distances and bit of the radius: not plane & bit, or near where they are equal.
ALWAYS_INLINE __m512i near_by(__m512i plane, uint64_t radius, size_t bit, __m512i near) {
  return _mm512_ternarylogic_epi64(plane, _mm512_loadu_si512(kAllOrNone[radius >> bit & 1]), near, 0x8e);
}

// The same for planes of weights kWeight, ...
template <size_t... kWeight>
ALWAYS_INLINE __m512i near_by(const Counter& counter, uint64_t radius, __m512i near, std::index_sequence<kWeight...>) {
  ((near = near_by(counter[kWeight][0], radius, kWeight, near)), ...);
  return near;
}

// lanes: those of `near` that are not zero.
size_t write_near_rows(const Part& part, const uint64_t* query, __m512i near, unsigned lanes, Hit* hits) {
  alignas(64) uint64_t rows_of[8];
  _mm512_storeu_si512(rows_of, near);
  const size_t n_words = part.n_words();
  size_t n_hits = 0;
  for (; lanes != 0; lanes &= lanes - 1) {
    const auto lane = static_cast<size_t>(__builtin_ctz(lanes));
    for (uint64_t rows = rows_of[lane]; rows != 0; rows &= rows - 1) {
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

// Writes a query's hits. near: those rows, unless the radius reaches past all distances of n_planes bits.
ALWAYS_INLINE void write_near_rows(const Part& part, size_t q, size_t n_planes, __m512i near, PartQueries& queries) {
  // Without a branch, or the compiler moves the counting behind it, away from its loads.
  const bool is_every_row = static_cast<uint64_t>(queries.radii[q]) >> n_planes != 0;
  near = _mm512_or_si512(near, _mm512_loadu_si512(kAllOrNone[is_every_row]));
  const unsigned lanes = _mm512_test_epi64_mask(near, near);
  const bool is_any = lanes != 0 && queries.radii[q] >= 0;
  const uint64_t* query = queries.words + q * part.n_words();
  queries.n_hits[q] = is_any ? write_near_rows(part, query, near, lanes, queries.hits[q]) : 0;
}

// Counts kTriples triples of a chunk.
template <size_t kTriples, uint64_t kCounts>
ALWAYS_INLINE void count_chunk(const uint8_t* triples, const ChunkBits& at, Counter& counter) {
  count_triples<0, kTriples, kCounts>(triples, at.bits, at.bits ^ at.bits >> 1 ^ at.bits >> 2, at.later_bits, counter);
}

// Counts kChunks chunks, the last one of kLast triples.
template <size_t kChunks, size_t kLast, uint64_t kCounts>
ALWAYS_INLINE void count_chunks(const uint8_t* triples, const ChunkBits* at, Counter& counter) {
  constexpr size_t kTriples = kChunks == 1 ? kLast : kTriplesAtOnce;
  constexpr uint64_t kAfter = after_triples(kCounts, kTriples);
  count_chunk<kTriples, kCounts>(triples, *at, counter);
  if constexpr (kChunks == 1) {
    settle<kAfter, 0>(counter);
  } else {
    count_chunks<kChunks - 1, kLast, kAfter>(triples + kTriples * kTripleBytes, at + 1, counter);
  }
}

constexpr size_t bit_length(size_t value) { return value == 0 ? 0 : 1 + bit_length(value / 2); }

// Codes of kChunks chunks. If several of these are inlined into one function, registers run out.
template <size_t kChunks, size_t kLast = kTriplesAtOnce>
__attribute__((noinline)) void within_chunks(const Part& part, PartQueries& queries) {
  constexpr size_t kPlanes = bit_length(kChunks * kBitsAtOnce);
  const size_t n_words = part.n_words();
  const uint8_t* triples = part.prepared + n_column_bytes(part.n_bits);
  for (size_t q = 0; q < queries.n; ++q) {
    ChunkBits at[kChunks];
    split(queries.words + q * n_words, n_words, kChunks, at);
    Counter counter;
    count_chunks<kChunks, kLast, 0>(triples, at, counter);
    const __m512i near = near_by(counter, static_cast<uint64_t>(queries.radii[q]), _mm512_set1_epi64(-1),
                                 std::make_index_sequence<kPlanes>());
    write_near_rows(part, q, kPlanes, near, queries);
  }
}

constexpr size_t kChunkPlanes = bit_length(kBitsAtOnce);
constexpr size_t kMostBits = (1 << 16) - 1;

// Codes of any number of chunks, from two, the last one of kLast triples. Between chunks there is one plane of each of
// kChunkPlanes weights, and those of higher weights, which only carries reach.
template <size_t kLast>
__attribute__((noinline)) void within_any_chunks(const Part& part, size_t n_chunks, PartQueries& queries) {
  constexpr uint64_t kOneOfEach = 0x1555;
  const size_t n_words = part.n_words(), n_higher = bit_length(part.n_bits) - kChunkPlanes;
  for (size_t q = 0; q < queries.n; ++q) {
    const uint8_t* triples = part.prepared + n_column_bytes(part.n_bits);
    const auto radius = static_cast<uint64_t>(queries.radii[q]);
    ChunkBits at[kMostBits / kBitsAtOnce + 1];
    split(queries.words + q * n_words, n_words, n_chunks, at);
    Counter counter;
    __m512i higher[bit_length(kMostBits) - kChunkPlanes];
    for (size_t i = 0; i < n_higher; ++i) higher[i] = _mm512_setzero_si512();
    count_chunks<1, kTriplesAtOnce, 0>(triples, at, counter);
    for (size_t chunk = 1; chunk + 1 < n_chunks; ++chunk) {
      triples += kTriplesAtOnce * kTripleBytes;
      count_chunks<1, kTriplesAtOnce, kOneOfEach>(triples, at + chunk, counter);
      __m512i carry = counter[kChunkPlanes][0];
      for (size_t i = 0; i < n_higher; ++i) {
        const __m512i before = higher[i];
        higher[i] = _mm512_xor_si512(before, carry);
        carry = _mm512_and_si512(before, carry);
      }
    }
    triples += kTriplesAtOnce * kTripleBytes;
    count_chunks<1, kLast, kOneOfEach>(triples, at + n_chunks - 1, counter);
    __m512i near = near_by(counter, radius, _mm512_set1_epi64(-1), std::make_index_sequence<kChunkPlanes>());
    __m512i carry = counter[kChunkPlanes][0];
    for (size_t i = 0; i < n_higher; ++i) {
      near = near_by(_mm512_xor_si512(higher[i], carry), radius, kChunkPlanes + i, near);
      carry = _mm512_and_si512(higher[i], carry);
    }
    write_near_rows(part, q, kChunkPlanes + n_higher, near, queries);
  }
}

void within_part(const Part& part, PartQueries& queries) {
  const Chunks chunks(part.n_bits);
  const auto is = [&](size_t n, size_t n_last) { return chunks.n == n && chunks.n_last == n_last; };
  if (is(1, kLastSizes[0])) return within_chunks<1, kLastSizes[0]>(part, queries);
  if (is(1, kLastSizes[1])) return within_chunks<1, kLastSizes[1]>(part, queries);
  if (is(1, kLastSizes[2])) return within_chunks<1, kLastSizes[2]>(part, queries);
  if (is(1, kTriplesAtOnce)) return within_chunks<1>(part, queries);
  if (is(4, kTriplesAtOnce)) return within_chunks<4>(part, queries);  // 256 bits
  if (is(8, kTriplesAtOnce)) return within_chunks<8>(part, queries);  // 512 bits
  if (chunks.n_last == kLastSizes[0]) return within_any_chunks<kLastSizes[0]>(part, chunks.n, queries);
  if (chunks.n_last == kLastSizes[1]) return within_any_chunks<kLastSizes[1]>(part, chunks.n, queries);
  if (chunks.n_last == kLastSizes[2]) return within_any_chunks<kLastSizes[2]>(part, chunks.n, queries);
  within_any_chunks<kTriplesAtOnce>(part, chunks.n, queries);
}

constexpr Preparation kBitPlanes = {n_prepared_bytes, pays, prepare, within_part};

}  // namespace

extern const Kernel kernel_avx512_vpopcntdq;
const Kernel kernel_avx512_vpopcntdq = {"avx512_vpopcntdq", kAvx512F | kAvx512Vpopcntdq | kPopcnt, within,
                                        Layout::kRows, &kBitPlanes};

}  // namespace athsearch
