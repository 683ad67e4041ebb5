// The network's operations for any CPU: registers of four floats, as every 64-bit x86 and Arm has.
#include <cstddef>
#include <cstdint>

#include "../../cpu.h"

namespace athsearch {

namespace {
constexpr int kLanes = 4;
constexpr int kPixels16 = 3;
constexpr int kPixels8 = 6;
}  // namespace

}  // namespace athsearch

#include "../generic.h"

namespace athsearch {

extern const Operations operations_baseline;
const Operations operations_baseline = {"baseline",   0,      convolve,  pool_maximum,
                                        pool_average, attend, summarise, multiply};

}  // namespace athsearch
