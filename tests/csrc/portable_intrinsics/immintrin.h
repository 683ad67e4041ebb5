// A plain C++ stand-in for the AVX-512 intrinsics that our kernels use, so that their source runs on any CPU in tests.
// Each does what Intel's Intrinsics Guide says, lane by lane. A kernel that needs one more finds a compile error here.
#pragma once

#include <cstdint>

struct __m512i {
  uint64_t lane[8];
};
using __mmask8 = uint8_t;

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
inline void _mm512_storeu_si512(void* memory, __m512i a) {
  for (int i = 0; i < 8; ++i) static_cast<uint64_t*>(memory)[i] = a.lane[i];
}
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
