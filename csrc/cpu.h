// CPU features that code of this project is built for, and which of them this machine has.
#pragma once

#include <cstdint>

namespace athsearch {

enum Feature : uint32_t {
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kAvx512F = 1u << 2,
  kAvx512Vl = 1u << 3,
  kAvx512Vpopcntdq = 1u << 4,
  kPopcnt = 1u << 5,
  kAvx512Bw = 1u << 6,
  kGfni = 1u << 7,
};

// The features that both the CPU and the operating system support.
uint32_t cpu_features();

}  // namespace athsearch
