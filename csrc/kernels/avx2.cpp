// Rows within a radius for CPUs with AVX2 (Haswell, Zen and later).
//
// For few queries: POPCNT (popcnt_rows.h).
//
// For many queries: nibble planes. A query's four bits are a table of sixteen distances, and VPSHUFB looks up 32 rows'
// four bits in it; the lookups of Mula, Kurz, Lemire 2018 (arXiv 1611.07612), which look up bit counts. Per 32 rows and
// four bits: VPSHUFB (with the load) and VPADDB, and a quarter of VBROADCASTI128; per 128 rows 4 VPMINUB, VPCMPEQB,
// VPTEST and a branch. Limit: a VPSHUFB for 32 rows and four bits, so two 64-bit rows a VPSHUFB.
//
// Measured on Zen 4 at 3.65 GHz, two VPSHUFB a cycle (benchmarks/results/scan-avx2.json): 51 % of that limit for 256
// queries of 64 bits; one query of 64 bits over ten million rows takes 84 % of the read bandwidth on one thread and 98
// % on two.
#include <immintrin.h>

#include "../scan.h"
#include "popcnt_rows.h"

namespace athsearch {

namespace {

// Nibble planes: 128 rows after 128 rows, and of those plane after plane. Plane p holds bits 4 p to 4 p + 3 of each
// row, a byte a row.
constexpr size_t kPlaneRows = 128, kRegisters = kPlaneRows / 32;
constexpr size_t kPartRows = 512;
size_t part_rows(size_t) { return kPartRows; }
constexpr size_t n_bytes_of(size_t n_bits) { return (n_bits + 7) / 8; }
size_t n_prepared_bytes(size_t n_bits) { return 2 * kPartRows * n_bytes_of(n_bits); }

inline __m256i load(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }
inline void store(uint8_t* bytes, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value); }

// Writes the first n_bytes of a word of 32 rows, `stride` words apart, to two planes each: each half of the registers
// transposes sixteen rows of eight bytes.
inline void write_planes(const uint64_t* words, size_t stride, size_t n_bytes, uint8_t* planes) {
  const __m256i zip_u8x32 = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,  //
                                             0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  const auto word = [&](size_t row) { return static_cast<long long>(words[row * stride]); };
  __m256i twos[8], fours[8], eights[8];  // rows whose bytes lie side by side
  for (size_t i = 0; i < 8; ++i) {
    const __m256i rows = _mm256_setr_epi64x(word(2 * i), word(2 * i + 1), word(2 * i + 16), word(2 * i + 17));
    twos[i] = _mm256_shuffle_epi8(rows, zip_u8x32);
  }
  for (size_t i = 0; i < 8; i += 2) {
    fours[i] = _mm256_unpacklo_epi16(twos[i], twos[i + 1]);
    fours[i + 1] = _mm256_unpackhi_epi16(twos[i], twos[i + 1]);
  }
  for (size_t i = 0; i < 8; i += 4)
    for (size_t half = 0; half < 2; ++half) {
      eights[i + 2 * half] = _mm256_unpacklo_epi32(fours[i + half], fours[i + 2 + half]);
      eights[i + 2 * half + 1] = _mm256_unpackhi_epi32(fours[i + half], fours[i + 2 + half]);
    }
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  for (size_t byte = 0; byte < n_bytes; ++byte, planes += 2 * kPlaneRows) {
    const __m256i first = eights[byte / 2], second = eights[4 + byte / 2];
    const __m256i bytes = byte % 2 ? _mm256_unpackhi_epi64(first, second) : _mm256_unpacklo_epi64(first, second);
    store(planes, _mm256_and_si256(bytes, nibble));
    store(planes + kPlaneRows, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble));
  }
}

void prepare(const Part& part) {
  const size_t n_words = part.n_words(), n_bytes = n_bytes_of(part.n_bits);
  for (size_t row = 0; row < part.n_rows; row += 32) {
    uint8_t* planes = part.prepared + row / kPlaneRows * kPlaneRows * 2 * n_bytes + row % kPlaneRows;
    for (size_t word = 0; word < n_words; ++word) {
      const size_t n_here = n_bytes - 8 * word < 8 ? n_bytes - 8 * word : 8;
      const uint64_t* column = part.words + row * n_words + word;
      if (row + 32 <= part.n_rows) {
        write_planes(column, n_words, n_here, planes + 16 * word * kPlaneRows);
      } else {
        uint64_t last[32] = {};
        for (size_t i = 0; i < part.n_rows - row; ++i) last[i] = column[i * n_words];
        write_planes(last, 1, n_here, planes + 16 * word * kPlaneRows);
      }
    }
  }
}

struct NibbleDistances {
  alignas(16) uint8_t u8x16[16][16];  // row q: the distances of 0 to 15 from q
  constexpr NibbleDistances() : u8x16() {
    for (unsigned q = 0; q < 16; ++q)
      for (unsigned value = 0; value < 16; ++value)
        for (unsigned bit = 0; bit < 4; ++bit) u8x16[q][value] += static_cast<uint8_t>((q ^ value) >> bit & 1);
  }
};
constexpr NibbleDistances kNibbleDistances;

inline __m256i distance_table(unsigned nibble) {
  const uint8_t* table = kNibbleDistances.u8x16[nibble];
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

constexpr size_t kBytesAtOnce = 31;  // of a code: their distance surely fits a byte

// Distances of 128 rows in bytes begin to end - 1 of the codes, at most kBytesAtOnce.
inline void distances_u8x32(const uint64_t* query, const uint8_t* planes, size_t begin, size_t end,
                            __m256i sum[kRegisters]) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(query);
  for (size_t i = 0; i < kRegisters; ++i) sum[i] = _mm256_setzero_si256();
  for (size_t byte = begin; byte < end; ++byte) {
    const uint8_t* low = planes + 2 * byte * kPlaneRows;
    const __m256i low_table = distance_table(bytes[byte] & 15), high_table = distance_table(bytes[byte] >> 4);
    for (size_t i = 0; i < kRegisters; ++i) {
      const __m256i low_bits = _mm256_shuffle_epi8(low_table, load(low + 32 * i));
      const __m256i high_bits = _mm256_shuffle_epi8(high_table, load(low + kPlaneRows + 32 * i));
      sum[i] = _mm256_add_epi8(sum[i], _mm256_add_epi8(low_bits, high_bits));
    }
  }
}

// Distances of 128 rows in sixteen bits: those of even rows and those of odd ones.
struct Distances {
  __m256i even_u16x16[kRegisters], odd_u16x16[kRegisters];

  void add(const __m256i bits_u8x32[kRegisters]) {
    for (size_t i = 0; i < kRegisters; ++i) {
      const __m256i even = _mm256_and_si256(bits_u8x32[i], _mm256_set1_epi16(0x00ff));
      even_u16x16[i] = _mm256_add_epi16(even_u16x16[i], even);
      odd_u16x16[i] = _mm256_add_epi16(odd_u16x16[i], _mm256_srli_epi16(bits_u8x32[i], 8));
    }
  }
};

// Writes those of the first n_rows of 128 rows that are within the radius.
inline size_t write_hits(const Distances& distances, size_t n_rows, __m256i radius_u16x16, uint64_t first_row,
                         Hit* hits) {
  const auto is_near = [&](__m256i distance) {
    return _mm256_cmpeq_epi16(_mm256_min_epu16(distance, radius_u16x16), distance);
  };
  size_t n_hits = 0;
  for (size_t i = 0; i < kRegisters && 32 * i < n_rows; ++i) {
    const __m256i even = distances.even_u16x16[i], odd = distances.odd_u16x16[i];
    const __m256i near = _mm256_blendv_epi8(is_near(odd), is_near(even), _mm256_set1_epi16(0x00ff));
    auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(near));
    if (n_rows - 32 * i < 32) mask &= (1u << (n_rows - 32 * i)) - 1;
    if (mask == 0) continue;
    alignas(32) uint16_t values[2][16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(values[0]), even);
    _mm256_store_si256(reinterpret_cast<__m256i*>(values[1]), odd);
    for (; mask != 0; mask &= mask - 1) {
      const auto row = static_cast<unsigned>(__builtin_ctz(mask));
      hits[n_hits++] = make_hit(values[row % 2][row / 2], first_row + 32 * i + row);
    }
  }
  return n_hits;
}

size_t within_planes(const Part& part, const uint64_t* query, uint64_t radius, Hit* hits) {
  const __m256i radius_u8x32 = _mm256_set1_epi8(static_cast<char>(radius < 0xff ? radius : 0xff));
  const __m256i radius_u16x16 = _mm256_set1_epi16(static_cast<short>(radius < 0xffff ? radius : 0xffff));
  const size_t n_bytes = n_bytes_of(part.n_bits), n_first = n_bytes < kBytesAtOnce ? n_bytes : kBytesAtOnce;
  size_t n_hits = 0;
  for (size_t row = 0; row < part.n_rows; row += kPlaneRows) {
    const uint8_t* planes = part.prepared + row * 2 * n_bytes;
    __m256i sum[kRegisters];
    distances_u8x32(query, planes, 0, n_first, sum);
    if (n_bytes <= kBytesAtOnce) {
      const __m256i nearest = _mm256_min_epu8(_mm256_min_epu8(sum[0], sum[1]), _mm256_min_epu8(sum[2], sum[3]));
      const __m256i is_near = _mm256_cmpeq_epi8(_mm256_min_epu8(nearest, radius_u8x32), nearest);
      if (_mm256_testz_si256(is_near, is_near)) continue;
    }
    Distances distances{};
    distances.add(sum);
    for (size_t byte = kBytesAtOnce; byte < n_bytes; byte += kBytesAtOnce) {
      const size_t end = n_bytes - byte < kBytesAtOnce ? n_bytes : byte + kBytesAtOnce;
      distances_u8x32(query, planes, byte, end, sum);
      distances.add(sum);
    }
    n_hits += write_hits(distances, part.n_rows - row, radius_u16x16, part.first_row + row, hits + n_hits);
  }
  return n_hits;
}

void within_part(const Part& part, PartQueries& queries) {
  for (size_t q = 0; q < queries.n; ++q) {
    const uint64_t* query = queries.words + q * part.n_words();
    const auto radius = static_cast<uint64_t>(queries.radii[q]);
    queries.n_hits[q] = queries.radii[q] < 0 ? 0 : within_planes(part, query, radius, queries.hits[q]);
  }
}

size_t n_plan_bytes(size_t, size_t) { return 0; }
void plan(const uint64_t*, size_t, size_t, uint8_t*) {}

constexpr Preparation kNibblePlanes = {part_rows, n_prepared_bytes, n_plan_bytes, plan, prepare, within_part};

const Preparation* preparation_for(size_t, size_t n_queries) { return n_queries >= 8 ? &kNibblePlanes : nullptr; }

}  // namespace

extern const Kernel kernel_avx2;
const Kernel kernel_avx2 = {"avx2", kAvx2 | kPopcnt, within_by_popcnt, Layout::kRows, preparation_for};

}  // namespace athsearch
