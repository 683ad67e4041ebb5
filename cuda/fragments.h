// Parts of matrices in the registers of a warp, and what its lanes do together with them on tensor cores.
//
// Code for a warp takes it as a template parameter: on a GPU a lane is a thread and has its own values, in tests a warp
// is a loop over 32 lanes (tests/csrc/emulated_fragments.h). Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type" and "ldmatrix".
#pragma once

#include "floats.h"

namespace athsearch {
namespace cuda {

// A lane's part, with row = lane / 4 and column = 2 * (lane % 4); the lower half of a word is the first value.
struct FragmentA {  // of [16, 16] halves: (row, column), (row + 8, column), (row, column + 8), (row + 8, column + 8),
  uint32_t of[4];   // and the next column of each
};
struct alignas(8) FragmentB {  // of [16, 8] halves: (column, row), (column + 8, row), and the next of its column
  uint32_t of[2];
};
struct FragmentC {  // of [16, 8] floats: (row, column), (row, column + 1), (row + 8, column), (row + 8, column + 1)
  float of[4];
};

#ifdef __CUDACC__

class Warp {
 public:
  // A value of each lane.
  template <class T>
  class Each {
   public:
    __device__ T& operator[](unsigned) { return own_; }

   private:
    T own_;
  };

  // run(lane), for every lane.
  template <class Run>
  __device__ void each(Run run) const {
    run(threadIdx.x % 32);
  }

  // Lane l's place, in bytes from `shared` on, is where eight values of row l % 16 lie: columns 0 to 7, or 8 to 15 from
  // lane 16 on. A multiple of 16.
  __device__ void load_a(Each<FragmentA>& a, const Float16* shared, Each<unsigned>& places) const {
    uint32_t (&of)[4] = a[0].of;
    const auto begin = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    const uint32_t row = begin + places[0];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(of[0]), "=r"(of[1]), "=r"(of[2]), "=r"(of[3])
                 : "r"(row)
                 : "memory");
  }

  // sum = a b + c
  __device__ void mma_f16(Each<FragmentC>& sum, Each<FragmentA>& a, Each<FragmentB>& b, Each<FragmentC>& c) const {
    float (&sums)[4] = sum[0].of;
    const float (&begin)[4] = c[0].of;
    const uint32_t (&left)[4] = a[0].of, (&right)[2] = b[0].of;
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]), "f"(begin[0]),
          "f"(begin[1]), "f"(begin[2]), "f"(begin[3]));
  }
};

#endif

}  // namespace cuda
}  // namespace athsearch
