// A warp in ordinary memory: its lanes in any order, and what they do together on tensor cores, on whole matrices that
// are put together from the lanes' fragments where the PTX ISA says their values are.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../../cuda/fragments.h"

namespace athsearch {
namespace cuda {

class EmulatedWarp {
 public:
  template <class T>
  class Each {
   public:
    T& operator[](unsigned lane) { return of_[lane]; }

   private:
    T of_[32];
  };

  // order: of the lanes, 0 to 31.
  explicit EmulatedWarp(std::vector<unsigned> order) : order_(std::move(order)) {}

  template <class Run>
  void each(Run run) const {
    for (const unsigned lane : order_) run(lane);
  }

  // ldmatrix .m8n8.x4: lanes 8 i to 8 i + 7 have the places of the rows of matrix i, which becomes every lane's word i:
  // of row lane / 4, values 2 (lane % 4) and the next.
  void load_a(Each<FragmentA>& a, const Float16* shared, Each<unsigned>& places) const {
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned matrix = 0; matrix < 4; ++matrix) {
        const unsigned place = places[8 * matrix + lane / 4];
        const Float16* row = shared + place / sizeof(Float16);
        if (place % 16 != 0 || reinterpret_cast<uintptr_t>(row) % 16 != 0)
          throw std::runtime_error("ldmatrix reads 16 aligned bytes");
        const Float16* pair = row + 2 * (lane % 4);
        a[lane].of[matrix] = pair[0].bits | uint32_t{pair[1].bits} << 16;
      }
  }

  // mma .m16n8k16 .row.col .f32.f16.f16.f32. Value i of a lane's fragment: of A row lane / 4, or 8 more for i % 4 > 1,
  // column 2 (lane % 4) + i % 2, or 8 more for i > 3; of B row 2 (lane % 4) + i % 2, or 8 more for i > 1, column
  // lane / 4; of C row lane / 4, or 8 more for i > 1, column 2 (lane % 4) + i % 2.
  void mma_f16(Each<FragmentC>& sums, Each<FragmentA>& a, Each<FragmentB>& b, Each<FragmentC>& c) const {
    float left[16][16], right[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned group = lane / 4, first = 2 * (lane % 4);
      for (unsigned i = 0; i < 8; ++i)
        left[group + (i % 4 > 1 ? 8 : 0)][first + i % 2 + (i > 3 ? 8 : 0)] = half(a[lane].of, i);
      for (unsigned i = 0; i < 4; ++i) right[first + i % 2 + (i > 1 ? 8 : 0)][group] = half(b[lane].of, i);
    }
    for (unsigned lane = 0; lane < 32; ++lane)
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + (i > 1 ? 8 : 0), column = 2 * (lane % 4) + i % 2;
        float sum = c[lane].of[i];
        for (unsigned k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        sums[lane].of[i] = sum;
      }
  }

 private:
  static float half(const uint32_t* words, unsigned i) {
    return widen(Float16{static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16))});
  }

  std::vector<unsigned> order_;
};

}  // namespace cuda
}  // namespace athsearch
