// The tensor cores' product m16n8k256 of bits for the 32 lanes of a warp, by the PTX ISA's layout of its fragments
// (section "Matrix Fragments for mma.m16n8k256"): element i of a lane's part stands at these rows and columns.
#pragma once

#include <array>

#include "../../cuda/scan_b1.h"

namespace athsearch {
namespace cuda {

struct Place {
  unsigned row, column;
};

// A, 16 x 256: 128 elements a lane, 32 a register.
inline Place place_in_a(unsigned lane, unsigned i) {
  const bool is_upper = i < 32 || (i >= 64 && i < 96);
  return {lane / 4 + (is_upper ? 0 : 8), lane % 4 * 32 + i % 32 + (i < 64 ? 0 : 128)};
}
// B, 256 x 8: 64 elements a lane.
inline Place place_in_b(unsigned lane, unsigned i) { return {lane % 4 * 32 + i % 32 + (i < 32 ? 0 : 128), lane / 4}; }
// The sums, 16 x 8: 4 elements a lane.
inline Place place_in_sums(unsigned lane, unsigned i) { return {lane / 4 + (i < 2 ? 0 : 8), lane % 4 * 2 + i % 2}; }

inline void mma_b1_and_popc(const std::array<Sums*, 32>& sums, const std::array<QueryFragment, 32>& queries,
                            const std::array<RowFragment, 32>& rows) {
  // Of B the columns, so that both are eight words of 32 elements along k.
  uint32_t a[16][8], b[8][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 128; i += 32) {
      const Place place = place_in_a(lane, i);
      a[place.row][place.column / 32] = queries[lane].bits[i / 32];
    }
    for (unsigned i = 0; i < 64; i += 32) {
      const Place place = place_in_b(lane, i);
      b[place.column][place.row / 32] = rows[lane].bits[i / 32];
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned i = 0; i < 4; ++i) {
      const Place place = place_in_sums(lane, i);
      for (unsigned k = 0; k < 8; ++k) sums[lane]->of[i] += __builtin_popcount(a[place.row][k] & b[place.column][k]);
    }
}

}  // namespace cuda
}  // namespace athsearch
