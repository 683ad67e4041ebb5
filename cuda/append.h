// How the lanes of a warp append their near pairs to the queries' candidates.
#pragma once

#include "scan.h"

namespace athsearch {
namespace cuda {

// look(bit): the Near of a lane's bit. count(counter, n): n hits of a query of the pass and a distance.
template <class Bits, class Look, class CountHits>
__device__ __forceinline__ void append_near(const Scan& scan, unsigned first_query, unsigned lane, Bits bits, Look look,
                                            CountHits count) {
  while (bits != 0) {
    const Near near = look(lowest_set_bit(bits));
    bits &= bits - 1;
    if (!near.is_wanted) continue;
    const unsigned counter = counter_of(scan, near);
    const uint32_t lanes = __match_any_sync(__activemask(), counter);
    const unsigned leader = lowest_set_bit(lanes);
    uint64_t place = 0;
    if (lane == leader) {
      count(counter, n_set_bits(lanes));
      place = reserve(scan, first_query, near, n_set_bits(lanes));
    }
    place = __shfl_sync(lanes, static_cast<unsigned long long>(place), static_cast<int>(leader));
    append(scan, first_query + near.query, place + rank_among(lanes, lane), near.hit);
  }
}

}  // namespace cuda
}  // namespace athsearch
