// Rows within a radius for CPUs with AVX-512 VPOPCNTDQ (Ice Lake, Zen 4 and later): eight rows a register.
//
// Per eight rows and word: VPXORQ (with the load), VPOPCNTQ, and VPADDQ from the second word on; per 32 rows 3 VPMINUQ,
// one VPCMPUQ and a branch that is rarely taken once the radius is tight. Taken, it packs the hits with VPCOMPRESSQ
// into a register and stores all of it: the form that compresses straight to memory is microcoded on Zen 4. Limits: one
// 64-byte load a register, so memory bandwidth / 8 bytes in rows a second per word; VPOPCNTQ runs on one port of Ice
// Lake and on two of Zen 4 and 5; three operations for eight rows of one word, so 3/4 of a cycle on four vector ports.
// The tail is a masked load: bytes past the array are never touched.
// Reference for the instructions: Intel Intrinsics Guide; for the idea: Mula, Kurz, Lemire 2018 (arXiv 1611.07612).
#include <immintrin.h>

#include "../scan.h"

namespace athsearch {

namespace {

// Distances of four registers of rows, of which only those present are read.
struct Distances {
  __m512i u64x8[4];
};

inline Distances distances(const uint64_t* query, const Block& block, size_t row, const __mmask8 present[4]) {
  Distances sum;
  const __m512i first_u64x8 = _mm512_set1_epi64(static_cast<long long>(query[0]));
  for (size_t i = 0; i < 4; ++i) {
    const __m512i code_u64x8 = _mm512_maskz_loadu_epi64(present[i], block.words + row + 8 * i);
    sum.u64x8[i] = _mm512_popcnt_epi64(_mm512_xor_si512(code_u64x8, first_u64x8));
  }
  for (size_t word = 1; word < block.n_words; ++word) {
    const __m512i query_u64x8 = _mm512_set1_epi64(static_cast<long long>(query[word]));
    const uint64_t* words = block.words + word * block.stride + row;
    for (size_t i = 0; i < 4; ++i) {
      const __m512i code_u64x8 = _mm512_maskz_loadu_epi64(present[i], words + 8 * i);
      const __m512i bits_u64x8 = _mm512_popcnt_epi64(_mm512_xor_si512(code_u64x8, query_u64x8));
      sum.u64x8[i] = _mm512_add_epi64(sum.u64x8[i], bits_u64x8);
    }
  }
  return sum;
}

// Writes those of 32 rows that are present and within the radius.
inline size_t write_hits(const Distances& distance, const __mmask8 present[4], __m512i radius_u64x8, uint64_t row,
                         Hit* hits) {
  size_t n_hits = 0;
  for (size_t i = 0; i < 4; ++i) {
    const __mmask8 near = _mm512_mask_cmple_epu64_mask(present[i], distance.u64x8[i], radius_u64x8);
    const __m512i row_u64x8 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(row + 8 * i)),
                                               _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
    const __m512i hit_u64x8 = _mm512_or_si512(_mm512_slli_epi64(distance.u64x8[i], kRowBits), row_u64x8);
    _mm512_storeu_si512(hits + n_hits, _mm512_maskz_compress_epi64(near, hit_u64x8));
    n_hits += static_cast<size_t>(__builtin_popcount(near));
  }
  return n_hits;
}

size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  const __m512i radius_u64x8 = _mm512_set1_epi64(static_cast<long long>(radius));
  const __mmask8 all[4] = {0xff, 0xff, 0xff, 0xff};
  size_t row = 0, n_hits = 0;
  for (; row + 32 <= block.n_rows; row += 32) {
    const Distances distance = distances(query, block, row, all);
    const __m512i nearest_u64x8 = _mm512_min_epu64(_mm512_min_epu64(distance.u64x8[0], distance.u64x8[1]),
                                                   _mm512_min_epu64(distance.u64x8[2], distance.u64x8[3]));
    if (_mm512_cmple_epu64_mask(nearest_u64x8, radius_u64x8) == 0) continue;
    n_hits += write_hits(distance, all, radius_u64x8, block.first_row + row, hits + n_hits);
  }
  if (row < block.n_rows) {
    __mmask8 present[4];
    for (size_t i = 0; i < 4; ++i) {
      const size_t n_left = block.n_rows - row > 8 * i ? block.n_rows - row - 8 * i : 0;
      present[i] = n_left >= 8 ? 0xff : static_cast<__mmask8>((1u << n_left) - 1);
    }
    const Distances distance = distances(query, block, row, present);
    n_hits += write_hits(distance, present, radius_u64x8, block.first_row + row, hits + n_hits);
  }
  return n_hits;
}

}  // namespace

extern const Kernel kernel_avx512_vpopcntdq;
const Kernel kernel_avx512_vpopcntdq = {"avx512_vpopcntdq", kAvx512F | kAvx512Vpopcntdq | kPopcnt, within,
                                        Layout::kColumns, nullptr};

}  // namespace athsearch
