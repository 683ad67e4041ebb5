// How the lanes of a warp append their near pairs to the queries' candidates.
#pragma once

#include "scan.h"

namespace athsearch {
namespace cuda {

// look(bit): the Near of a lane's bit. count(near, n): called for n hits of one query and distance.
template <class Bits, class Look, class CountHits>
__device__ __forceinline__ void append_near(const Scan& scan, unsigned lane, Bits bits, Look look, CountHits count) {
  while (bits != 0) {
    const Near near = look(lowest_set_bit(bits));
    bits &= bits - 1;
    if (!near.is_wanted) continue;
    const auto key = near.query * scan.n_distances + static_cast<unsigned>(hit_distance(near.hit));
    const uint32_t lanes = __match_any_sync(__activemask(), key);
    const unsigned leader = lowest_set_bit(lanes);
    uint64_t place = 0;
    if (lane == leader) {
      count(near, n_set_bits(lanes));
      place = reserve(scan, near, n_set_bits(lanes));
    }
    place = __shfl_sync(lanes, static_cast<unsigned long long>(place), static_cast<int>(leader));
    append(scan, near, place + rank_among(lanes, lane));
  }
}

}  // namespace cuda
}  // namespace athsearch
