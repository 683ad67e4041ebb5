// Rows within a radius for CPUs with AVX-512 VPOPCNTDQ (Ice Lake, Zen 4 and later): eight rows a register.
//
// Per eight rows and word: VMOVDQU64 (load), VPXORQ, VPOPCNTQ, and VPADDQ from the second word on; per eight rows one
// VPCMPUQ and a branch that is rarely taken once the radius is tight. Taken, it packs the hits with VPCOMPRESSQ into a
// register and stores all of it: the form that compresses straight to memory is microcoded on Zen 4. Limits: one
// 64-byte load a register, so memory bandwidth / 8 bytes in rows a second per word; VPOPCNTQ runs on one port of Ice
// Lake and on two of Zen 4 and 5. The tail is a masked load: bytes past the array are never touched.
// Reference for the instructions: Intel Intrinsics Guide; for the idea: Mula, Kurz, Lemire 2018 (arXiv 1611.07612).
#include <immintrin.h>

#include "../scan.h"

namespace athsearch {

static size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  const __m512i radius_u64x8 = _mm512_set1_epi64(static_cast<long long>(radius));
  __m512i row_u64x8 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(block.first_row)),
                                       _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  const __m512i eight_u64x8 = _mm512_set1_epi64(8);
  size_t n_hits = 0;
  for (size_t row = 0; row < block.n_rows; row += 8) {
    const size_t n_left = block.n_rows - row;
    const __mmask8 present = n_left >= 8 ? 0xff : static_cast<__mmask8>((1u << n_left) - 1);
    __m512i distance_u64x8 = _mm512_setzero_si512();
    for (size_t word = 0; word < block.n_words; ++word) {
      const __m512i code_u64x8 = _mm512_maskz_loadu_epi64(present, block.words + word * block.stride + row);
      const __m512i query_u64x8 = _mm512_set1_epi64(static_cast<long long>(query[word]));
      distance_u64x8 = _mm512_add_epi64(distance_u64x8, _mm512_popcnt_epi64(_mm512_xor_si512(code_u64x8, query_u64x8)));
    }
    const __mmask8 near = _mm512_mask_cmple_epu64_mask(present, distance_u64x8, radius_u64x8);
    if (near) {
      const __m512i hit_u64x8 = _mm512_or_si512(_mm512_slli_epi64(distance_u64x8, kRowBits), row_u64x8);
      _mm512_storeu_si512(hits + n_hits, _mm512_maskz_compress_epi64(near, hit_u64x8));
      n_hits += static_cast<size_t>(__builtin_popcount(near));
    }
    row_u64x8 = _mm512_add_epi64(row_u64x8, eight_u64x8);
  }
  return n_hits;
}

extern const Kernel kernel_avx512_vpopcntdq;
const Kernel kernel_avx512_vpopcntdq = {"avx512_vpopcntdq", kAvx512F | kAvx512Vpopcntdq, within};

}  // namespace athsearch
