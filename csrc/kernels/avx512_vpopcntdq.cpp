// Rows within a radius for CPUs with AVX-512 VPOPCNTDQ, BW and GFNI (Ice Lake, Zen 4 and later).
//
// For few queries of several words: POPCNT (popcnt_rows.h). For few of one word: VPOPCNTQ, eight rows a register.
// Per eight rows: VPXORQ (with the load) and VPOPCNTQ; per 32 rows 3 VPMINUQ, VPCMPUQ and a branch that is rarely taken
// once the radius is tight. The tail is a masked load: bytes past the array are never touched.
//
// For many queries: bit planes and full adders (bit_planes.h); where codes have several words, shared by three queries
// (query_trios.h). Where they have one: what differs between queries is which bits are inverted, and there are only
// eight ways to invert three: the outcome of a first full adder of three bits, sum and carry, is prepared for each way,
// so that a query only picks its own. Per 512 rows and three bits: two loads, and two full adders instead of three;
// the comparison with the radius is one VPTERNLOGQ a plane of the distance. So 1.33 operations for eight rows and 64
// bits, where VPXORQ, VPOPCNTQ, VPADDQ are three, and no popcount port is in the way.
// Limits: two operations a cycle on Zen 4, whose units are half as wide, so 12 rows of 64 bits a cycle; one 64-byte
// load a cycle. What is prepared, 14 KiB, fits the L1 cache.
//
// Measured on Zen 4 at 3.65 GHz (benchmarks/results/scan-avx512_vpopcntdq.json), 256 queries, one thread: 46 % of that
// limit at 64 bits, 20.4 billion rows a second, where VPOPCNTQ, one a cycle, with its VPXORQ and VPADDQ could not pass
// 19.5. One query of 64 bits over ten million rows takes as much of the read bandwidth on two threads as a plain sum
// does, and more on one.
#include "bit_planes.h"
#include "query_trios.h"

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

// For every three planes (a, b, c), the last planes zero: a ^ b ^ c and its inverse, and the carries of a + b + c where
// query bits 0 to 7 invert some of them. A part is a slice; its planes come before.
constexpr size_t kTripleBytes = 10 * kPlaneBytes;
constexpr size_t kMostTriples = 22;
// So many are counted, at least: what 16, 32, 48 and 64 bits need.
constexpr size_t n_triples(size_t n_bits) {
  const size_t n = (n_bits + 2) / 3;
  return n <= 6 ? 6 : n <= 11 ? 11 : n <= 16 ? 16 : kMostTriples;
}
size_t triple_part_rows(size_t) { return kSliceRows; }
size_t n_triple_part_bytes(size_t n_bits) { return n_slice_bytes(1) + n_triples(n_bits) * kTripleBytes; }
size_t n_triple_plan_bytes(size_t, size_t) { return 0; }
void plan_triples(const uint64_t*, size_t, size_t, uint8_t*) {}

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

void prepare_triples(const Part& part) {
  uint8_t* triples = part.prepared + n_slice_bytes(1);
  write_planes(part, [](auto, const __m512i*) {});
  const auto plane = [&](size_t bit) { return load(part.prepared + smaller_of(bit, kZeroPlane) * kPlaneBytes); };
  for (size_t i = 0; i < n_triples(part.n_bits); ++i)
    write_triple(plane(3 * i), plane(3 * i + 1), plane(3 * i + 2), triples + i * kTripleBytes,
                 std::make_index_sequence<8>());
}

// (bits >> kBit) % (kMask + 1) planes on.
template <unsigned kBit, uint64_t kMask>
ALWAYS_INLINE const uint8_t* planes_on(const uint8_t* from, uint64_t bits) {
  if constexpr (kBit >= 6) return from + (bits >> (kBit - 6) & kMask * kPlaneBytes);
  return from + (bits << (6 - kBit) % 64 & kMask * kPlaneBytes);
}

// Counts triples kTriple to kTriples - 1. parities: in bit i that of the query's bits i to i + 2.
template <size_t kTriple, size_t kTriples, uint64_t kCounts>
ALWAYS_INLINE void count_triples(const uint8_t* triples, uint64_t query, uint64_t parities, Counter& counter) {
  if constexpr (kTriple < kTriples) {
    const uint8_t* sums = triples + kTriple * kTripleBytes;
    constexpr uint64_t kWithSum = after_push(kCounts, 0);
    push<kCounts, 0>(counter, load(planes_on<3 * kTriple, 1>(sums, parities)));
    push<kWithSum, 1>(counter, load(planes_on<3 * kTriple, 7>(sums + 2 * kPlaneBytes, query)));
    count_triples<kTriple + 1, kTriples, after_push(kWithSum, 1)>(triples, query, parities, counter);
  } else {
    settle<kCounts, 0>(counter);
  }
}

// Of the rows whose distance, a plane of each weight kWeight, ..., is within a radius.
template <size_t... kWeight>
ALWAYS_INLINE __m512i near_by(const Counter& counter, uint64_t radius, std::index_sequence<kWeight...>) {
  __m512i near = _mm512_set1_epi64(-1);
  ((near = near_by(counter[kWeight][0], radius, kWeight, near)), ...);
  return near;
}

// Codes of at most 3 kTriples bits. If several of these are inlined into one function, registers run out.
template <size_t kTriples>
__attribute__((noinline)) void within_triples(const Part& part, PartQueries& queries) {
  constexpr size_t kDigits = bit_length(3 * kTriples);
  const size_t n_fetched = n_lines_a_step(queries.ahead, queries.n);
  for (size_t q = 0; q < queries.n; ++q) {
    fetch(queries.ahead, q * n_fetched, n_fetched);
    const uint64_t query = queries.words[q];
    const auto radius = static_cast<uint64_t>(smaller_of<int64_t>(queries.radii[q], (1 << kDigits) - 1));
    Counter counter;
    count_triples<0, kTriples, 0>(part.prepared + n_slice_bytes(1), query, query ^ query >> 1 ^ query >> 2, counter);
    add_near_rows(part, q, near_by(counter, radius, std::make_index_sequence<kDigits>()), queries);
  }
}

void within_triples(const Part& part, PartQueries& queries) {
  const size_t n = n_triples(part.n_bits);
  if (n == 6) return within_triples<6>(part, queries);
  if (n == 11) return within_triples<11>(part, queries);
  if (n == 16) return within_triples<16>(part, queries);
  within_triples<kMostTriples>(part, queries);
}

constexpr Preparation kTriples = {triple_part_rows, n_triple_part_bytes, n_triple_plan_bytes,
                                  plan_triples,     prepare_triples,     within_triples};

// Preparing one word costs as much as 24 queries of it save; POPCNT takes longer with few queries of several words.
const Preparation* preparation_for(size_t n_bits, size_t n_queries) {
  if (n_bits <= 64) return n_queries >= 24 ? &kTriples : nullptr;
  return n_queries >= 3 && n_bits <= kMostTrioBits ? &kTrios : nullptr;
}

}  // namespace

extern const Kernel kernel_avx512_vpopcntdq;
const Kernel kernel_avx512_vpopcntdq = {"avx512_vpopcntdq", kAvx512F | kAvx512Bw | kAvx512Vpopcntdq | kGfni | kPopcnt,
                                        within, Layout::kRows, preparation_for};

}  // namespace athsearch
