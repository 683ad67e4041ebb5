// The network's operations for CPUs with AVX2 and FMA (Haswell, Zen and later): registers of eight floats.
#include <cstddef>
#include <cstdint>

#include "../../cpu.h"

namespace athsearch {

namespace {
constexpr int kLanes = 8;
constexpr int kPixels16 = 6;
constexpr int kPixels8 = 12;
}  // namespace

}  // namespace athsearch

#include "../generic.h"

namespace athsearch {

extern const Operations operations_avx2;
const Operations operations_avx2 = {"avx2",       kAvx2 | kFma, convolve,  pool_maximum,
                                    pool_average, attend,       summarise, multiply};

}  // namespace athsearch
