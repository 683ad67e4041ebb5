// A plain C++ stand-in for the AVX2 and AVX-512 intrinsics that our kernels use, so that their source runs on any CPU
// in tests. Each does what Intel's Intrinsics Guide says, lane by lane. A kernel that needs one more finds a compile
// error here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

struct __m512i {
  uint64_t lane[8];
};
using __mmask8 = uint8_t;
using __mmask16 = uint16_t;

template <class Lane>
__m512i each_lane(Lane value) {
  __m512i out;
  for (int i = 0; i < 8; ++i) out.lane[i] = value(i);
  return out;
}

inline __m512i _mm512_setzero_si512() {
  return each_lane([](int) { return uint64_t{0}; });
}
inline __m512i _mm512_set1_epi64(long long value) {
  return each_lane([&](int) { return static_cast<uint64_t>(value); });
}
inline __m512i _mm512_set_epi64(long long e7, long long e6, long long e5, long long e4, long long e3, long long e2,
                                long long e1, long long e0) {
  const long long values[8] = {e0, e1, e2, e3, e4, e5, e6, e7};
  return each_lane([&](int i) { return static_cast<uint64_t>(values[i]); });
}
inline __m512i _mm512_add_epi64(__m512i a, __m512i b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline __m512i _mm512_xor_si512(__m512i a, __m512i b) {
  return each_lane([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
inline __m512i _mm512_or_si512(__m512i a, __m512i b) {
  return each_lane([&](int i) { return a.lane[i] | b.lane[i]; });
}
inline __m512i _mm512_slli_epi64(__m512i a, unsigned count) {
  return each_lane([&](int i) { return a.lane[i] << count; });
}
inline __m512i _mm512_popcnt_epi64(__m512i a) {
  return each_lane([&](int i) { return static_cast<uint64_t>(__builtin_popcountll(a.lane[i])); });
}
inline __m512i _mm512_maskz_loadu_epi64(__mmask8 mask, const void* memory) {
  const auto* from = static_cast<const uint64_t*>(memory);
  return each_lane([&](int i) { return mask >> i & 1 ? from[i] : uint64_t{0}; });
}
inline __m512i _mm512_min_epu64(__m512i a, __m512i b) {
  return each_lane([&](int i) { return std::min(a.lane[i], b.lane[i]); });
}
inline void _mm512_storeu_si512(void* memory, __m512i a) {
  for (int i = 0; i < 8; ++i) static_cast<uint64_t*>(memory)[i] = a.lane[i];
}
inline __m512i _mm512_loadu_si512(const void* memory) { return _mm512_maskz_loadu_epi64(0xff, memory); }
inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return each_lane([&](int i) { return a.lane[i] & b.lane[i]; });
}
inline __m512i _mm512_ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
  const auto all_if = [&](int bit) { return uint64_t{0} - (table >> bit & 1); };
  const uint64_t of[8] = {all_if(0), all_if(1), all_if(2), all_if(3), all_if(4), all_if(5), all_if(6), all_if(7)};
  const auto choose = [](uint64_t if_set, uint64_t if_not, uint64_t by) { return (if_set & by) | (if_not & ~by); };
  return each_lane([&](int i) {
    const uint64_t y = b.lane[i], z = c.lane[i];
    return choose(choose(choose(of[7], of[6], z), choose(of[5], of[4], z), y),
                  choose(choose(of[3], of[2], z), choose(of[1], of[0], z), y), a.lane[i]);
  });
}
// Applies byte(lane's first byte, i) to the bytes i of every 16-byte lane.
template <class Byte>
__m512i each_byte(Byte byte) {
  uint8_t out[64];
  for (int i = 0; i < 64; ++i) out[i] = byte(i & 48, i & 15);
  __m512i a;
  std::memcpy(&a, out, 64);
  return a;
}
inline uint8_t byte_of(const __m512i& a, int i) { return static_cast<uint8_t>(a.lane[i / 8] >> (8 * (i % 8))); }
inline __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b) {
  return each_byte([&](int lane, int i) { return byte_of(i % 2 ? b : a, lane + i / 2); });
}
inline __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b) {
  return each_byte([&](int lane, int i) { return byte_of(i % 2 ? b : a, lane + 8 + i / 2); });
}
// Bit b of a byte is the parity of what it has in common with byte 7 - b of the matrix.
inline __m512i _mm512_gf2p8affine_epi64_epi8(__m512i a, __m512i matrix, int inverted) {
  return each_byte([&](int lane, int i) {
    unsigned out = static_cast<unsigned>(inverted);
    for (int bit = 0; bit < 8; ++bit) {
      const int row = lane + i / 8 * 8 + 7 - bit;
      out ^= static_cast<unsigned>(__builtin_parity(byte_of(matrix, row) & byte_of(a, lane + i))) << bit;
    }
    return static_cast<uint8_t>(out);
  });
}
inline __mmask8 _mm512_test_epi64_mask(__m512i a, __m512i b) {
  __mmask8 out = 0;
  for (int i = 0; i < 8; ++i)
    if (a.lane[i] & b.lane[i]) out = static_cast<__mmask8>(out | 1 << i);
  return out;
}
inline __mmask8 _mm512_mask_cmple_epu64_mask(__mmask8 mask, __m512i a, __m512i b);
inline __mmask8 _mm512_cmple_epu64_mask(__m512i a, __m512i b) { return _mm512_mask_cmple_epu64_mask(0xff, a, b); }
inline __mmask8 _mm512_mask_cmple_epu64_mask(__mmask8 mask, __m512i a, __m512i b) {
  __mmask8 out = 0;
  for (int i = 0; i < 8; ++i)
    if ((mask >> i & 1) && a.lane[i] <= b.lane[i]) out = static_cast<__mmask8>(out | 1 << i);
  return out;
}
inline __m512i _mm512_maskz_compress_epi64(__mmask8 mask, __m512i a) {
  __m512i out = _mm512_setzero_si512();
  int next = 0;
  for (int i = 0; i < 8; ++i)
    if (mask >> i & 1) out.lane[next++] = a.lane[i];
  return out;
}

struct alignas(32) __m256i {
  uint64_t lane[4];
};

// Applies function(a's lane, b's lane) to lanes of type Lane.
template <class Lane, class Function>
__m256i lanes_of(__m256i a, __m256i b, Function function) {
  constexpr int n_lanes = 32 / sizeof(Lane);
  Lane x[n_lanes], y[n_lanes];
  std::memcpy(x, &a, 32);
  std::memcpy(y, &b, 32);
  for (int i = 0; i < n_lanes; ++i) x[i] = static_cast<Lane>(function(x[i], y[i]));
  std::memcpy(&a, x, 32);
  return a;
}

inline __m256i _mm256_setzero_si256() { return {{0, 0, 0, 0}}; }
inline __m256i _mm256_setr_epi64x(long long e0, long long e1, long long e2, long long e3) {
  return {{static_cast<uint64_t>(e0), static_cast<uint64_t>(e1), static_cast<uint64_t>(e2), static_cast<uint64_t>(e3)}};
}
inline __m256i _mm256_set1_epi8(char value) {
  __m256i out;
  std::memset(&out, value, 32);
  return out;
}
template <class... Bytes>
__m256i _mm256_setr_epi8(Bytes... bytes) {
  const uint8_t values[32] = {static_cast<uint8_t>(bytes)...};
  __m256i out;
  std::memcpy(&out, values, 32);
  return out;
}
inline __m256i _mm256_loadu_si256(const __m256i* memory) {
  __m256i out;
  std::memcpy(&out, memory, 32);
  return out;
}
inline void _mm256_store_si256(__m256i* memory, __m256i a) { std::memcpy(memory, &a, 32); }
inline __m256i _mm256_and_si256(__m256i a, __m256i b) {
  return lanes_of<uint64_t>(a, b, [](uint64_t x, uint64_t y) { return x & y; });
}
inline __m256i _mm256_srli_epi16(__m256i a, int count) {
  return lanes_of<uint16_t>(a, a, [&](uint16_t x, uint16_t) { return x >> count; });
}
inline __m256i _mm256_shuffle_epi8(__m256i table, __m256i index) {
  uint8_t from[32], at[32];
  std::memcpy(from, &table, 32);
  std::memcpy(at, &index, 32);
  for (int i = 0; i < 32; ++i) at[i] = at[i] & 0x80 ? uint8_t{0} : from[(i & 16) + (at[i] & 15)];
  std::memcpy(&index, at, 32);
  return index;
}
inline __m256i _mm256_add_epi8(__m256i a, __m256i b) {
  return lanes_of<uint8_t>(a, b, [](uint8_t x, uint8_t y) { return x + y; });
}
inline int _mm256_testz_si256(__m256i a, __m256i b) {
  const __m256i both = _mm256_and_si256(a, b);
  return (both.lane[0] | both.lane[1] | both.lane[2] | both.lane[3]) == 0;
}

struct __m128i {
  uint64_t lane[2];
};
inline __m128i _mm_load_si128(const __m128i* memory) {
  __m128i out;
  std::memcpy(&out, memory, 16);
  return out;
}
inline __m128i _mm_loadu_si128(const __m128i* memory) { return _mm_load_si128(memory); }
inline __m128i _mm_setzero_si128() { return {{0, 0}}; }
inline __m128i _mm_loadl_epi64(const __m128i* memory) {
  __m128i out = _mm_setzero_si128();
  std::memcpy(&out, memory, 8);
  return out;
}
inline __m512i _mm512_castsi128_si512(__m128i a) { return {{a.lane[0], a.lane[1]}}; }
inline __m512i _mm512_mask_broadcast_i32x4(__m512i unchosen, __mmask16 mask, __m128i a) {
  uint32_t out[16], from[4];
  std::memcpy(out, &unchosen, 64);
  std::memcpy(from, &a, 16);
  for (int i = 0; i < 16; ++i)
    if (mask >> i & 1) out[i] = from[i % 4];
  std::memcpy(&unchosen, out, 64);
  return unchosen;
}
inline __m256i _mm256_broadcastsi128_si256(__m128i a) { return {{a.lane[0], a.lane[1], a.lane[0], a.lane[1]}}; }
inline __m256i _mm256_set1_epi16(short value) {
  return lanes_of<uint16_t>({}, {}, [&](uint16_t, uint16_t) { return value; });
}
inline void _mm256_storeu_si256(__m256i* memory, __m256i a) { std::memcpy(static_cast<void*>(memory), &a, 32); }
inline __m256i _mm256_add_epi16(__m256i a, __m256i b) {
  return lanes_of<uint16_t>(a, b, [](uint16_t x, uint16_t y) { return x + y; });
}
inline __m256i _mm256_min_epu8(__m256i a, __m256i b) {
  return lanes_of<uint8_t>(a, b, [](uint8_t x, uint8_t y) { return std::min(x, y); });
}
inline __m256i _mm256_min_epu16(__m256i a, __m256i b) {
  return lanes_of<uint16_t>(a, b, [](uint16_t x, uint16_t y) { return std::min(x, y); });
}
inline __m256i _mm256_cmpeq_epi8(__m256i a, __m256i b) {
  return lanes_of<uint8_t>(a, b, [](uint8_t x, uint8_t y) { return x == y ? 0xff : 0; });
}
inline __m256i _mm256_cmpeq_epi16(__m256i a, __m256i b) {
  return lanes_of<uint16_t>(a, b, [](uint16_t x, uint16_t y) { return x == y ? 0xffff : 0; });
}
inline __m256i _mm256_blendv_epi8(__m256i a, __m256i b, __m256i mask) {
  const auto where = [&](__m256i value, __m256i chosen) {
    return lanes_of<int8_t>(value, chosen, [](int8_t x, int8_t m) { return m < 0 ? x : 0; });
  };
  const __m256i unchosen = lanes_of<uint8_t>(mask, mask, [](uint8_t m, uint8_t) { return ~m; });
  return lanes_of<uint64_t>(where(a, unchosen), where(b, mask), [](uint64_t x, uint64_t y) { return x | y; });
}
inline int _mm256_movemask_epi8(__m256i a) {
  uint8_t bytes[32];
  std::memcpy(bytes, &a, 32);
  uint32_t mask = 0;
  for (int i = 0; i < 32; ++i) mask |= static_cast<uint32_t>(bytes[i] >> 7) << i;
  return static_cast<int>(mask);
}

// Takes lanes of a and b in turn from the low (0) or high (1) half of each 128 bits.
template <class Lane>
__m256i unpack(__m256i a, __m256i b, int half) {
  constexpr int n_lanes = 16 / sizeof(Lane);
  Lane x[2 * n_lanes], y[2 * n_lanes], out[2 * n_lanes];
  std::memcpy(x, &a, 32);
  std::memcpy(y, &b, 32);
  for (int i = 0; i < 2 * n_lanes; ++i) {
    const int from = i / n_lanes * n_lanes + half * n_lanes / 2 + i % n_lanes / 2;
    out[i] = i % 2 ? y[from] : x[from];
  }
  std::memcpy(&a, out, 32);
  return a;
}
inline __m256i _mm256_unpacklo_epi16(__m256i a, __m256i b) { return unpack<uint16_t>(a, b, 0); }
inline __m256i _mm256_unpackhi_epi16(__m256i a, __m256i b) { return unpack<uint16_t>(a, b, 1); }
inline __m256i _mm256_unpacklo_epi32(__m256i a, __m256i b) { return unpack<uint32_t>(a, b, 0); }
inline __m256i _mm256_unpackhi_epi32(__m256i a, __m256i b) { return unpack<uint32_t>(a, b, 1); }
inline __m256i _mm256_unpacklo_epi64(__m256i a, __m256i b) { return unpack<uint64_t>(a, b, 0); }
inline __m256i _mm256_unpackhi_epi64(__m256i a, __m256i b) { return unpack<uint64_t>(a, b, 1); }
