// Rows within a radius for CPUs with AVX2 (Haswell, Zen and later): four rows a register.
//
// A byte's bits are counted by looking up its two halves (Mula, Kurz, Lemire 2018, arXiv 1611.07612). Per four rows and
// word: VPXOR (with the load), 2 VPAND, VPSRLW, 2 VPSHUFB, VPADDB, and VPADDB from the second word on; per four rows
// and 31 words (more would overflow a byte) VPSADBW, VPADDQ; per sixteen rows 3 VPMINUD, VPCMPGTD, VPTEST and a branch
// that is rarely taken once the radius is tight. Limit: ten operations for four rows of one word, on two to four vector
// ports. The tail is a masked load: bytes past the array are never touched.
#include <immintrin.h>

#include "../scan.h"

namespace athsearch {

namespace {

inline __m256i bits_of_bytes(__m256i value) {
  const __m256i half = _mm256_set1_epi8(0x0f);
  const __m256i bits_of_half = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                                0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_shuffle_epi8(bits_of_half, _mm256_and_si256(value, half));
  const __m256i high = _mm256_shuffle_epi8(bits_of_half, _mm256_and_si256(_mm256_srli_epi16(value, 4), half));
  return _mm256_add_epi8(low, high);
}

struct LoadAll {
  __m256i operator()(const uint64_t* words) const {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  }
};

struct LoadPresent {
  __m256i present_u64x4;
  __m256i operator()(const uint64_t* words) const {
    return _mm256_maskload_epi64(reinterpret_cast<const long long*>(words), present_u64x4);
  }
};

template <class Load>
inline __m256i distances_u64x4(const uint64_t* query, const Block& block, size_t row, Load load) {
  constexpr size_t kWordsOfBytes = 31;
  const __m256i zero = _mm256_setzero_si256();
  __m256i distance_u64x4 = zero;
  for (size_t word = 0; word < block.n_words;) {
    const size_t end = block.n_words - word < kWordsOfBytes ? block.n_words : word + kWordsOfBytes;
    __m256i bits_u8x32 = zero;
    for (; word < end; ++word) {
      const __m256i query_u64x4 = _mm256_set1_epi64x(static_cast<long long>(query[word]));
      const __m256i differing = _mm256_xor_si256(load(block.words + word * block.stride + row), query_u64x4);
      bits_u8x32 = _mm256_add_epi8(bits_u8x32, bits_of_bytes(differing));
    }
    distance_u64x4 = _mm256_add_epi64(distance_u64x4, _mm256_sad_epu8(bits_u8x32, zero));
  }
  return distance_u64x4;
}

// Writes those of four rows that are near; `near` has all bits set where they are.
inline size_t write_hits(__m256i distance_u64x4, __m256i near_u64x4, uint64_t row, Hit* hits) {
  alignas(32) uint64_t distance[4], near[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(distance), distance_u64x4);
  _mm256_store_si256(reinterpret_cast<__m256i*>(near), near_u64x4);
  size_t n_hits = 0;
  for (size_t i = 0; i < 4; ++i) {
    hits[n_hits] = make_hit(distance[i], row + i);
    n_hits += near[i] & 1;
  }
  return n_hits;
}

size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  // A distance fits the low half of its lane; the high halves are zero on both sides and so never compare as greater.
  const __m256i beyond_u64x4 = _mm256_set1_epi64x(static_cast<long long>(radius + 1));
  size_t row = 0, n_hits = 0;
  for (; row + 16 <= block.n_rows; row += 16) {
    __m256i distance_u64x4[4];
    for (size_t i = 0; i < 4; ++i) distance_u64x4[i] = distances_u64x4(query, block, row + 4 * i, LoadAll());
    const __m256i nearest = _mm256_min_epu32(_mm256_min_epu32(distance_u64x4[0], distance_u64x4[1]),
                                             _mm256_min_epu32(distance_u64x4[2], distance_u64x4[3]));
    const __m256i is_near = _mm256_cmpgt_epi32(beyond_u64x4, nearest);
    if (_mm256_testz_si256(is_near, is_near)) continue;
    for (size_t i = 0; i < 4; ++i) {
      const __m256i near_u64x4 = _mm256_cmpgt_epi32(beyond_u64x4, distance_u64x4[i]);
      n_hits += write_hits(distance_u64x4[i], near_u64x4, block.first_row + row + 4 * i, hits + n_hits);
    }
  }
  for (; row < block.n_rows; row += 4) {
    const __m256i n_left_u64x4 = _mm256_set1_epi64x(static_cast<long long>(block.n_rows - row));
    const __m256i present_u64x4 = _mm256_cmpgt_epi64(n_left_u64x4, _mm256_setr_epi64x(0, 1, 2, 3));
    const __m256i distance_u64x4 = distances_u64x4(query, block, row, LoadPresent{present_u64x4});
    const __m256i near_u64x4 = _mm256_and_si256(_mm256_cmpgt_epi32(beyond_u64x4, distance_u64x4), present_u64x4);
    n_hits += write_hits(distance_u64x4, near_u64x4, block.first_row + row, hits + n_hits);
  }
  return n_hits;
}

}  // namespace

extern const Kernel kernel_avx2;
const Kernel kernel_avx2 = {"avx2", kAvx2, within};

}  // namespace athsearch
