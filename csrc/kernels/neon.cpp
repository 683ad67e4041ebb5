// Rows within a radius for 64-bit Arm CPUs: two rows a register. Every such CPU has NEON.
//
// Per two rows and word: LDR, EOR, CNT, and ADD of bytes from the second word on; per two rows and 31 words (more would
// overflow a byte) 3 UADDLP, ADD; per eight rows 3 UMIN, CMHI, UMAXV and a branch that is rarely taken once the radius
// is tight. Limit: seven operations for two rows of one word, on two to four vector ports. The last rows of a block are
// compared one by one.
#include <arm_neon.h>

#include "../scan.h"

namespace athsearch {

namespace {

inline uint64x2_t distances_u64x2(const uint64_t* query, const Block& block, size_t row) {
  constexpr size_t kWordsOfBytes = 31;
  uint64x2_t distance_u64x2 = vdupq_n_u64(0);
  for (size_t word = 0; word < block.n_words;) {
    const size_t end = block.n_words - word < kWordsOfBytes ? block.n_words : word + kWordsOfBytes;
    uint8x16_t bits_u8x16 = vdupq_n_u8(0);
    for (; word < end; ++word) {
      const uint64x2_t code_u64x2 = vld1q_u64(block.words + word * block.stride + row);
      const uint64x2_t differing = veorq_u64(code_u64x2, vdupq_n_u64(query[word]));
      bits_u8x16 = vaddq_u8(bits_u8x16, vcntq_u8(vreinterpretq_u8_u64(differing)));
    }
    distance_u64x2 = vaddq_u64(distance_u64x2, vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bits_u8x16))));
  }
  return distance_u64x2;
}

inline uint32x4_t nearer(uint64x2_t a_u64x2, uint64x2_t b_u64x2) {
  return vminq_u32(vreinterpretq_u32_u64(a_u64x2), vreinterpretq_u32_u64(b_u64x2));
}

inline uint64_t distance_of(const uint64_t* query, const Block& block, size_t row) {
  uint64_t distance = 0;
  for (size_t word = 0; word < block.n_words; ++word)
    distance += static_cast<uint64_t>(__builtin_popcountll(query[word] ^ block.words[word * block.stride + row]));
  return distance;
}

size_t within(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  // A distance fits the low half of its lane; the high halves are zero on both sides and so never compare as greater.
  const uint32x4_t beyond = vreinterpretq_u32_u64(vdupq_n_u64(radius + 1));
  size_t row = 0, n_hits = 0;
  for (; row + 8 <= block.n_rows; row += 8) {
    uint64x2_t distance_u64x2[4];
    for (size_t i = 0; i < 4; ++i) distance_u64x2[i] = distances_u64x2(query, block, row + 2 * i);
    const uint32x4_t nearest =
        vminq_u32(nearer(distance_u64x2[0], distance_u64x2[1]), nearer(distance_u64x2[2], distance_u64x2[3]));
    if (vmaxvq_u32(vcgtq_u32(beyond, nearest)) == 0) continue;
    uint64_t distance[8];
    for (size_t i = 0; i < 4; ++i) vst1q_u64(distance + 2 * i, distance_u64x2[i]);
    for (size_t i = 0; i < 8; ++i) {
      hits[n_hits] = make_hit(distance[i], block.first_row + row + i);
      n_hits += distance[i] <= radius;
    }
  }
  for (; row < block.n_rows; ++row) {
    const uint64_t distance = distance_of(query, block, row);
    hits[n_hits] = make_hit(distance, block.first_row + row);
    n_hits += distance <= radius;
  }
  return n_hits;
}

}  // namespace

extern const Kernel kernel_neon;
const Kernel kernel_neon = {"neon", 0, within, Layout::kColumns, nullptr};

}  // namespace athsearch
