// The network's operations for CPUs with AVX-512 (Skylake-X, Zen 4 and later): registers of sixteen floats.
#include <cstddef>
#include <cstdint>

#include "../../cpu.h"

namespace athsearch {

namespace {
constexpr int kLanes = 16;
constexpr int kPixels16 = 12;
constexpr int kPixels8 = 12;
}  // namespace

}  // namespace athsearch

#include "../generic.h"

namespace athsearch {

extern const Operations operations_avx512;
const Operations operations_avx512 = {
    "avx512", kAvx512F | kAvx512Vl | kAvx2 | kFma, convolve, pool_maximum, pool_average, attend, summarise, multiply};

}  // namespace athsearch
