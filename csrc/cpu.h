// Which of the kernels' CPU features this machine has.
#pragma once

#include <cstdint>

namespace athsearch {

// Feature bits (scan.h) that both the CPU and the operating system support.
uint32_t cpu_features();

}  // namespace athsearch
