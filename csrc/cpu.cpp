// Asks the compiler's runtime, which reads CPUID and checks with XGETBV that the system saves the wide registers.
#include "cpu.h"

namespace athsearch {

uint32_t cpu_features() {
  uint32_t features = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("popcnt")) features |= kPopcnt;
  if (__builtin_cpu_supports("avx2")) features |= kAvx2;
  if (__builtin_cpu_supports("fma")) features |= kFma;
  if (__builtin_cpu_supports("avx512f")) features |= kAvx512F;
  if (__builtin_cpu_supports("avx512bw")) features |= kAvx512Bw;
  if (__builtin_cpu_supports("avx512vl")) features |= kAvx512Vl;
  if (__builtin_cpu_supports("avx512vpopcntdq")) features |= kAvx512Vpopcntdq;
  if (__builtin_cpu_supports("gfni")) features |= kGfni;
#endif
  return features;
}

}  // namespace athsearch
