// Half, bfloat16, float and double for kernels and tests alike: how each is stored, and the type its sums are in.
#pragma once

#include <cmath>
#include <cstring>

#include "portable.h"

namespace athsearch {
namespace cuda {

enum class Dtype { kFloat16, kBFloat16, kFloat32, kFloat64 };

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct SumOf {
  using Type = float;
};
template <>
struct SumOf<double> {
  using Type = double;
};
template <class T>
using Sum = typename SumOf<T>::Type;

// What is read or written at once; up to 16 bytes are aligned as the GPU wants it.
template <class T, unsigned kValues>
struct alignas(sizeof(T) * kValues < 16 ? sizeof(T) * kValues : 16) Values {
  T at[kValues];
};

ATH_BOTH uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
ATH_BOTH float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

ATH_BOTH double widen(double value) { return value; }
ATH_BOTH float widen(float value) { return value; }
ATH_BOTH float widen(BFloat16 value) { return float_of(uint32_t{value.bits} << 16); }
ATH_BOTH float widen(Float16 value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00) return float_of(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);  // infinite, or NaN
  // The exponent's bias is 112 less than that of a float; multiplying makes subnormal numbers right too.
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
#endif
}

// To the nearest, of two equally near ones the even one.
ATH_BOTH void narrow(double wide, double& value) { value = wide; }
ATH_BOTH void narrow(float wide, float& value) { value = wide; }
ATH_BOTH void narrow(float wide, BFloat16& value) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(value.bits) : "f"(wide));
#else
  const uint32_t bits = bits_of(wide);
  const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  value.bits = static_cast<uint16_t>(is_nan ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
#endif
}
ATH_BOTH void narrow(float wide, Float16& value) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(wide));
#else
  const uint32_t sign = bits_of(wide) >> 16 & 0x8000, magnitude = bits_of(wide) & 0x7FFFFFFF;
  uint32_t bits;
  if (magnitude > 0x7F800000) {
    bits = 0x7FFF;
  } else if (magnitude >= 0x47800000) {  // 2^16 and more
    bits = 0x7C00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24, to which adding 1/2 rounds
    bits = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    bits = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
  }
  value.bits = static_cast<uint16_t>(sign | bits);
#endif
}
// Two of them in a word, the first in its lower half.
ATH_BOTH uint32_t narrowed_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  Float16 low, high;
  narrow(first, low);
  narrow(second, high);
  return low.bits | uint32_t{high.bits} << 16;
#endif
}

// Calls run with a value of the type, for its type.
template <class Run>
void with_type(Dtype dtype, Run run) {
  switch (dtype) {
    case Dtype::kFloat16:
      return run(Float16{});
    case Dtype::kBFloat16:
      return run(BFloat16{});
    case Dtype::kFloat32:
      return run(float{});
    case Dtype::kFloat64:
      return run(double{});
  }
}

template <class T>
ATH_BOTH T narrowed(Sum<T> wide) {
  T value;
  narrow(wide, value);
  return value;
}

}  // namespace cuda
}  // namespace athsearch
