// The tensor cores' product m64n256k256 of bits for the 128 threads of a warpgroup. Both matrices are read from shared
// memory by their descriptors, core matrix by core matrix, and the sums are where the PTX ISA has them (sections
// "Asynchronous Warpgroup Level Matrix Shared Memory Layout", K-major without swizzle, and "Matrix Fragments for
// wgmma.mma_async.m64nNk256").
#pragma once

#include <array>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "../../cuda/scan_wgmma.h"
#include "emulated_mma.h"

namespace athsearch {
namespace cuda {

// A block's shared memory: its bytes, and the address of the first.
struct SharedBytes {
  const uint8_t* bytes;
  size_t n_bytes;
  uint32_t address;

  uint32_t address_of(const void* in_shared) const {
    return address + static_cast<uint32_t>(static_cast<const uint8_t*>(in_shared) - bytes);
  }
};

// Where element i of a thread's sums stands, of 128.
inline Place place_in_wgmma_sums(unsigned thread, unsigned i) {
  return {thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8, i / 4 * 8 + thread % 4 * 2 + i % 2};
}

using Bits256 = std::array<uint64_t, 4>;

// The rows of a matrix of n x 256 bits: A, or B by its columns.
inline std::vector<Bits256> matrix_of(uint64_t descriptor, unsigned n, const SharedBytes& shared) {
  constexpr unsigned kRowBytes = 16, kCoreRows = 8;
  const auto field = [&](unsigned first_bit) { return (descriptor >> first_bit & 0x3FFF) * 16; };
  const uint64_t begin = field(0), along_k = field(16), along_rows = field(32);
  if ((descriptor & ~(uint64_t{0x3FFF} | uint64_t{0x3FFF} << 16 | uint64_t{0x3FFF} << 32)) != 0)
    throw std::runtime_error("a descriptor has bits of other layouts");
  std::vector<Bits256> rows(n);
  for (unsigned row = 0; row < n; ++row)
    for (unsigned core = 0; core < 2; ++core) {
      const uint64_t address = begin + core * along_k + row / kCoreRows * along_rows + row % kCoreRows * kRowBytes;
      if (address < shared.address || address + kRowBytes > shared.address + shared.n_bytes)
        throw std::runtime_error("a product reads beyond shared memory");
      std::memcpy(&rows[row][2 * core], shared.bytes + (address - shared.address), kRowBytes);
    }
  return rows;
}

// sums = a b, or += where is_added.
inline void wgmma_b1_and_popc(std::vector<WgmmaSums>& sums, uint64_t a, uint64_t b, bool is_added,
                              const SharedBytes& shared) {
  const std::vector<Bits256> rows = matrix_of(a, 64, shared), columns = matrix_of(b, 256, shared);
  for (unsigned thread = 0; thread < 128; ++thread)
    for (unsigned i = 0; i < 128; ++i) {
      const Place place = place_in_wgmma_sums(thread, i);
      const Bits256 &row = rows[place.row], &column = columns[place.column];
      int n = 0;
      for (unsigned k = 0; k < 4; ++k) n += __builtin_popcountll(row[k] & column[k]);
      sums[thread].of[i] = is_added ? sums[thread].of[i] + n : n;
    }
}

}  // namespace cuda
}  // namespace athsearch
