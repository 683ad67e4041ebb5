// Rows within a radius for 64-bit Arm CPUs: 16 rows at a time, or 8 of codes beyond 192 bits. Every such CPU has NEON.
//
// A register holds two rows, and CNT counts each of its bytes. What is dear is to add up a row's eight bytes; ADDP does
// it for all rows together, three levels deep, where a row's distance fits a byte. Operations on vectors:
//   up to 3 words, per 16 rows: 8 EOR, 8 CNT a word and 8 ADD from the second word on; 7 ADDP, CMHS, SHRN, FMOV
//   more words, per 8 rows: 4 EOR, CNT and ADD a word; 4 UADALP per 31 words (more would overflow a byte); 3 ADDP,
//   CMHS, XTN, FMOV
// besides one load (half an LDP) a register of the code's words and a branch that is rarely taken once the radius is
// tight. Limit: 1.6 operations a row of one word and 1.5 for each further one, on two to four vector ports. The last
// rows of a block are compared one by one. No Arm machine has timed it yet; `make neon` tests it by an emulator.
#include <arm_neon.h>

#include "../scan.h"

namespace athsearch {

namespace {

inline uint8x16_t word_bits(const uint64_t* query, const Block& block, size_t word, size_t row) {
  const uint64x2_t code_u64x2 = vld1q_u64(block.words + word * block.stride + row);
  return vcntq_u8(vreinterpretq_u8_u64(veorq_u64(code_u64x2, vdupq_n_u64(query[word]))));
}

// Of 16 rows: a byte each, rows ascending.
template <size_t kWords>
inline uint8x16_t distances_u8x16(const uint64_t* query, const Block& block, size_t row) {
  uint8x16_t bits_u8x16[8];
  for (size_t i = 0; i < 8; ++i) {
    bits_u8x16[i] = word_bits(query, block, 0, row + 2 * i);
    for (size_t word = 1; word < kWords; ++word)
      bits_u8x16[i] = vaddq_u8(bits_u8x16[i], word_bits(query, block, word, row + 2 * i));
  }
  for (size_t n = 8; n > 1; n /= 2)
    for (size_t i = 0; i < n / 2; ++i) bits_u8x16[i] = vpaddq_u8(bits_u8x16[2 * i], bits_u8x16[2 * i + 1]);
  return bits_u8x16[0];
}

// Of 8 rows: 16 bits each, rows ascending.
inline uint16x8_t distances_u16x8(const uint64_t* query, const Block& block, size_t row) {
  constexpr size_t kWordsOfBytes = 31;
  uint16x8_t sums_u16x8[4] = {};
  for (size_t word = 0; word < block.n_words;) {
    const size_t end = block.n_words - word < kWordsOfBytes ? block.n_words : word + kWordsOfBytes;
    uint8x16_t bits_u8x16[4] = {};
    for (; word < end; ++word)
      for (size_t i = 0; i < 4; ++i)
        bits_u8x16[i] = vaddq_u8(bits_u8x16[i], word_bits(query, block, word, row + 2 * i));
    for (size_t i = 0; i < 4; ++i) sums_u16x8[i] = vpadalq_u8(sums_u16x8[i], bits_u8x16[i]);
  }
  return vpaddq_u16(vpaddq_u16(sums_u16x8[0], sums_u16x8[1]), vpaddq_u16(sums_u16x8[2], sums_u16x8[3]));
}

inline uint64_t distance_of(const uint64_t* query, const Block& block, size_t row) {
  uint64_t distance = 0;
  for (size_t word = 0; word < block.n_words; ++word)
    distance += static_cast<uint64_t>(__builtin_popcountll(query[word] ^ block.words[word * block.stride + row]));
  return distance;
}

// The hits among the rows from `row` on, behind the n_hits so far.
size_t within_one_by_one(const uint64_t* query, const Block& block, uint64_t radius, size_t row, Hit* hits,
                         size_t n_hits) {
  for (; row < block.n_rows; ++row) {
    const uint64_t distance = distance_of(query, block, row);
    hits[n_hits] = make_hit(distance, block.first_row + row);
    n_hits += distance <= radius;
  }
  return n_hits;
}

template <size_t kWords>
size_t within_narrow(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  static_assert(64 * kWords < 256, "a distance fits a byte");
  const uint8x16_t radius_u8x16 = vdupq_n_u8(static_cast<uint8_t>(radius < 255 ? radius : 255));
  size_t row = 0, n_hits = 0;
  for (; row + 16 <= block.n_rows; row += 16) {
    const uint8x16_t distance_u8x16 = distances_u8x16<kWords>(query, block, row);
    const uint16x8_t is_hit_u16x8 = vreinterpretq_u16_u8(vcleq_u8(distance_u8x16, radius_u8x16));
    // Four bits a row, of which one is kept.
    uint64_t is_hit = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(is_hit_u16x8, 4)), 0) & 0x8888888888888888;
    if (is_hit == 0) continue;
    uint8_t distance[16];
    vst1q_u8(distance, distance_u8x16);
    for (; is_hit != 0; is_hit &= is_hit - 1) {
      const size_t i = static_cast<size_t>(__builtin_ctzll(is_hit)) / 4;
      hits[n_hits++] = make_hit(distance[i], block.first_row + row + i);
    }
  }
  return within_one_by_one(query, block, radius, row, hits, n_hits);
}

size_t within_wide(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  const uint16x8_t radius_u16x8 = vdupq_n_u16(static_cast<uint16_t>(radius < 65535 ? radius : 65535));
  size_t row = 0, n_hits = 0;
  for (; row + 8 <= block.n_rows; row += 8) {
    const uint16x8_t distance_u16x8 = distances_u16x8(query, block, row);
    const uint8x8_t is_hit_u8x8 = vmovn_u16(vcleq_u16(distance_u16x8, radius_u16x8));
    uint64_t is_hit = vget_lane_u64(vreinterpret_u64_u8(is_hit_u8x8), 0) & 0x8080808080808080;  // a bit a row
    if (is_hit == 0) continue;
    uint16_t distance[8];
    vst1q_u16(distance, distance_u16x8);
    for (; is_hit != 0; is_hit &= is_hit - 1) {
      const size_t i = static_cast<size_t>(__builtin_ctzll(is_hit)) / 8;
      hits[n_hits++] = make_hit(distance[i], block.first_row + row + i);
    }
  }
  return within_one_by_one(query, block, radius, row, hits, n_hits);
}

size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  if (block.n_words == 1) return within_narrow<1>(query, block, radius, hits);
  if (block.n_words == 2) return within_narrow<2>(query, block, radius, hits);
  if (block.n_words == 3) return within_narrow<3>(query, block, radius, hits);
  return within_wide(query, block, radius, hits);
}

}  // namespace

extern const Kernel kernel_neon;
const Kernel kernel_neon = {"neon", 0, within, Layout::kColumns, nullptr};

}  // namespace athsearch
