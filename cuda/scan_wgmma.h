// What a thread of the wgmma scan does, phase by phase: products of bits in shared memory are the distances of queries
// to rows.
//
// As in scan_b1.h, a query q and a row c differ in as many bits as [~q, q] and [c, ~c] have in common. In shared memory
// a word stands beside its complement: 16 bytes, the width of a core matrix. A plane has one word of all queries or
// rows of a tile, 16 bytes after 16 bytes, so that each 8 of them are a core matrix (8 x 16 bytes, without swizzle),
// and two planes are the 256 bits of a product, a k-step. PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory
// Layout", K-major.
#pragma once

#include "scan.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kWgmmaThreads = 128;                      // a warpgroup
constexpr unsigned kWgmmaQueries = 64, kWgmmaRows = 256;     // of a tile: a product has 64 x 256 sums
constexpr unsigned kHalfSums = 64;                           // a thread has so many of each of two queries
constexpr unsigned kMostQueryTiles = 4, kMostRowPlanes = 8;  // in shared memory

// A word and its complement: of a row in this order, of a query the other way round.
struct alignas(16) Doubled {
  uint64_t first, second;
};
struct WgmmaSums {
  int32_t of[2 * kHalfSums];
};

// What a block keeps in shared memory, beside its queries in bytes that the launch provides:
// [n_tiles, n_planes, kWgmmaQueries].
struct WgmmaShared {
  Doubled rows[kMostRowPlanes][kWgmmaRows];
  int32_t limits[kMostQueryTiles][kWgmmaThreads / 4][2];  // the largest wanted distance, by thread / 4 and half
};

ATH_BOTH unsigned n_planes(unsigned n_words) { return (n_words + 1) / 2 * 2; }

inline size_t wgmma_query_bytes(unsigned n_words, unsigned n_tiles) {
  return size_t{n_tiles} * n_planes(n_words) * kWgmmaQueries * sizeof(Doubled);
}

// How many tiles of queries a block compares with the rows that it has in shared memory: passes are about equal. One
// where not all planes of the rows have room at once: its sums are kept while the next planes come.
inline unsigned n_query_tiles(unsigned n_queries, unsigned n_words) {
  if (n_planes(n_words) > kMostRowPlanes) return 1;
  const unsigned n_tiles = (n_queries + kWgmmaQueries - 1) / kWgmmaQueries;
  const unsigned n_passes = (n_tiles + kMostQueryTiles - 1) / kMostQueryTiles;
  return (n_tiles + n_passes - 1) / n_passes;
}
// As many of them as have a query.
ATH_BOTH unsigned n_tiles_there(unsigned n_queries, unsigned first, unsigned n_tiles) {
  return static_cast<unsigned>(smaller((n_queries - first + kWgmmaQueries - 1) / kWgmmaQueries, n_tiles));
}

ATH_BOTH uint64_t n_row_tiles(uint64_t n_rows) { return (n_rows + kWgmmaRows - 1) / kWgmmaRows; }

// Two planes of a matrix from an address in shared memory on. Bits 0 to 13: the address's last 18 bits, / 16; 16 to 29:
// bytes / 16 to the core matrix next along k, which is in the next plane; 32 to 45: to that of the next 8 queries or
// rows; 62 and 63: no swizzle. Planes further on are `planes_on` more.
ATH_BOTH uint64_t descriptor_of(uint32_t address, unsigned n_of_plane) {
  constexpr uint64_t kUnit = 16, kCoreMatrix = 8 * sizeof(Doubled);
  return (address & 0x3FFFF) / kUnit | n_of_plane * sizeof(Doubled) / kUnit << 16 | kCoreMatrix / kUnit << 32;
}
ATH_BOTH uint64_t planes_on(unsigned n, unsigned n_of_plane) { return n * n_of_plane * sizeof(Doubled) / 16; }

// A thread's sums are those of two queries, the halves, to a quarter of the rows (PTX ISA, "Matrix Fragments for
// wgmma.mma_async.m64nNk256": D). Sum i of a half, its query in the tile, and its row.
ATH_BOTH int32_t sum_of_half(const WgmmaSums& sums, unsigned half, unsigned i) {
  return sums.of[i / 2 * 4 + 2 * half + i % 2];
}
ATH_BOTH unsigned query_of_half(unsigned half, unsigned thread) {
  return thread / 32 * 16 + thread % 32 / 4 + 8 * half;
}
ATH_BOTH unsigned row_of_sum(unsigned i, unsigned thread) { return i / 2 * 8 + thread % 4 * 2 + i % 2; }

// Phase 1: a pass's queries, and their limits. Zeros for those that are missing and for words beyond a code's last;
// nothing is near a missing one.
ATH_BOTH void load_query_tiles(unsigned thread, const Scan& scan, unsigned first, unsigned n_tiles, Doubled* queries,
                               WgmmaShared& shared) {
  const unsigned n_words = scan.codes.n_words, n = n_planes(n_words);
  for (unsigned tile = 0; tile < n_tiles; ++tile) {
    const unsigned first_of_tile = first + tile * kWgmmaQueries, query = first_of_tile + thread % kWgmmaQueries;
    for (unsigned plane = thread / kWgmmaQueries; plane < n; plane += kWgmmaThreads / kWgmmaQueries) {
      Doubled bits{};
      if (query < scan.n_queries && plane < n_words) {
        bits.second = scan.queries[size_t{query} * n_words + plane];
        bits.first = ~bits.second;
      }
      queries[(tile * n + plane) * kWgmmaQueries + thread % kWgmmaQueries] = bits;
    }
    if (thread < kWgmmaQueries) {
      const unsigned of_half = first_of_tile + query_of_half(thread % 2, thread / 2 * 4);
      shared.limits[tile][thread / 2][thread % 2] =
          of_half < scan.n_queries ? static_cast<int32_t>(hit_distance(scan.limits[of_half])) : -1;
    }
  }
}

// What a thread reads at once: of a tile, two rows' words of a k-step.
struct RowPlace {
  uint64_t tile;
  unsigned plane;
};
struct RowWords {
  uint64_t of[2][2];  // by plane and row
};

// Planes at the end of a code without a word are left as they are: the queries have zeros there.
ATH_BOTH void read_rows(const Codes& codes, const RowPlace& place, unsigned thread, RowWords& words) {
  static_assert(kTileRows % kWgmmaRows == 0, "a plane's rows lie side by side");
  const uint64_t* const rows = codes.words + word_place(place.tile * kWgmmaRows, place.plane, codes.n_words) + thread;
  ATH_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    if (place.plane + i >= codes.n_words) break;
    words.of[i][0] = rows[i * kTileRows];
    words.of[i][1] = rows[i * kTileRows + kWgmmaThreads];
  }
}
ATH_BOTH void store_rows(const Codes& codes, const RowPlace& place, unsigned thread, const RowWords& words,
                         WgmmaShared& shared) {
  ATH_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    if (place.plane + i >= codes.n_words) break;
    Doubled* const rows = shared.rows[(place.plane + i) % kMostRowPlanes] + thread;
    rows[0] = {words.of[i][0], ~words.of[i][0]};
    rows[kWgmmaThreads] = {words.of[i][1], ~words.of[i][1]};
  }
}

// Phase 2: as many planes as have room, of which the first words have been read already; `next` is behind them then.
ATH_BOTH void expand_rows(const Codes& codes, unsigned n_blocks, unsigned thread, RowPlace& next, RowWords& words,
                          WgmmaShared& shared) {
  for (;;) {
    store_rows(codes, next, thread, words, shared);
    next.plane += 2;
    if (next.plane == n_planes(codes.n_words)) next = {smaller(next.tile + n_blocks, n_row_tiles(codes.n_rows) - 1), 0};
    if (next.plane % kMostRowPlanes == 0) return;
    read_rows(codes, next, thread, words);
  }
}

ATH_BOTH int32_t least(int32_t a, int32_t b, int32_t c) {
#ifdef __CUDA_ARCH__
  return __vimin3_s32(a, b, c);
#else
  return a < b ? (a < c ? a : c) : b < c ? b : c;
#endif
}

// Phase 3: the least sum of a half.
ATH_BOTH int32_t least_sum(const WgmmaSums& sums, unsigned half) {
  int32_t by_turns[2] = {sum_of_half(sums, half, 0), sum_of_half(sums, half, 1)};  // two wait less than one
  ATH_UNROLL
  for (unsigned i = 2; i < kHalfSums; i += 2) {
    const unsigned turn = i / 2 % 2;
    by_turns[turn] = least(by_turns[turn], sum_of_half(sums, half, i), sum_of_half(sums, half, i + 1));
  }
  return by_turns[0] < by_turns[1] ? by_turns[0] : by_turns[1];
}

// Phase 3, rare part: bit i where sum i of a half is within the limit.
ATH_BOTH uint64_t near_sums(const WgmmaSums& sums, unsigned half, int32_t limit) {
  uint32_t near[2] = {};
  ATH_UNROLL
  for (unsigned i = kHalfSums; i-- > 0;)
    near[i / 32] = near[i / 32] << 1 | static_cast<uint32_t>(sum_of_half(sums, half, i) - limit - 1) >> 31;
  return uint64_t{near[1]} << 32 | near[0];
}

}  // namespace cuda
}  // namespace athsearch
