// What a lane of the b1 scan does, phase by phase: products of binary matrices are the distances of queries to rows.
//
// A query q and a row c differ in as many bits as [~q, q] and [c, ~c] have in common. So the product m16n8k256 with AND
// and population count adds, for 16 queries and 8 rows at once, the distances of 128 bits of a code: a k-step. Sums
// begin at -1 - limit, and a pair is near where its sum ends below zero.
//
// Which lane has which part of a matrix: PTX ISA, "Matrix Fragments for mma.m16n8k256". Where along k a bit stands is
// free, since both matrices follow the same order: of the four lanes of a group, 0 and 1 have a k-step's first word, 2
// and 3 its second, the even ones as it is and the odd ones complemented (the queries the other way round).
#pragma once

#include "scan.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kMmaQueries = 16, kMmaRows = 8, kMmaWords = 2;
constexpr unsigned kWarps = kThreads / 32;

// A lane's part of 16 queries, of 8 rows, and of their 16 x 8 sums.
struct alignas(16) QueryFragment {
  uint32_t bits[4];
};
struct RowFragment {
  uint32_t bits[2];
};
struct Sums {
  int32_t of[4];
};

ATH_BOTH unsigned n_k_steps(unsigned n_words) { return (n_words + kMmaWords - 1) / kMmaWords; }

// Warps step over the rows on their own, kRowTiles products side by side.
template <unsigned kRowTiles>
ATH_BOTH uint64_t n_warp_steps(uint64_t n_rows) {
  return (n_rows + kMmaRows * kRowTiles - 1) / (kMmaRows * kRowTiles);
}

ATH_BOTH unsigned word_of_lane(unsigned k_step, unsigned lane) { return kMmaWords * k_step + lane % 4 / 2; }

ATH_BOTH unsigned query_of_sum(unsigned tile, unsigned i, unsigned lane) {
  return kMmaQueries * tile + lane / 4 + 8 * (i / 2);
}

// The rows of two neighbouring tiles alternate, so that a lane reads two neighbouring rows at once.
template <unsigned kRowTiles>
ATH_BOTH uint64_t row_of_column(uint64_t step, unsigned tile, unsigned column) {
  return step * (kMmaRows * kRowTiles) + 2 * kMmaRows * (tile / 2) + 2 * column + tile % 2;
}

// Phase 1: a pass's queries into shared memory as [k-step, tile, lane]; zeros for those that are missing and for words
// beyond a code's last.
template <unsigned kQueryTiles>
ATH_BOTH void load_queries(unsigned thread, const Scan& scan, unsigned first, QueryFragment* fragments) {
  const unsigned n_words = scan.codes.n_words;
  for (unsigned i = thread; i < n_k_steps(n_words) * kQueryTiles * 32; i += kThreads) {
    const unsigned lane = i % 32, tile = i / 32 % kQueryTiles, word = word_of_lane(i / 32 / kQueryTiles, lane);
    for (unsigned half = 0; half < 2; ++half) {
      const unsigned query = first + query_of_sum(tile, 2 * half, lane);
      uint64_t bits = 0;
      if (query < scan.n_queries && word < n_words) {
        bits = scan.queries[size_t{query} * n_words + word];
        if (lane % 2 == 0) bits = ~bits;
      }
      fragments[i].bits[half] = static_cast<uint32_t>(bits);
      fragments[i].bits[half + 2] = static_cast<uint32_t>(bits >> 32);
    }
  }
}

// What the sums of a tile begin at. Those of missing queries stay at zero.
ATH_BOTH Sums first_sums(const Scan& scan, unsigned first, unsigned tile, unsigned lane) {
  Sums sums{};
  ATH_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned query = first + query_of_sum(tile, i, lane);
    if (query < scan.n_queries) sums.of[i] = -1 - static_cast<int32_t>(hit_distance(scan.limits[query]));
  }
  return sums;
}

// Phase 2: a lane's words of a step's rows. Beyond the last word of a code the queries have zeros: any will do.
template <unsigned kRowTiles>
ATH_BOTH void load_rows(const Codes& codes, uint64_t step, unsigned k_step, unsigned lane,
                        uint64_t (&words)[kRowTiles]) {
  static_assert(kRowTiles % 2 == 0 && kTileRows % (kMmaRows * kRowTiles) == 0, "a step's rows lie side by side");
  const unsigned wanted = word_of_lane(k_step, lane), word = wanted < codes.n_words ? wanted : codes.n_words - 1;
  const uint64_t* rows = codes.words + word_place(row_of_column<kRowTiles>(step, 0, lane / 4), word, codes.n_words);
  ATH_UNROLL
  for (unsigned tile = 0; tile < kRowTiles; tile += 2) read_pair(rows + kMmaRows * tile, words[tile], words[tile + 1]);
}

ATH_BOTH RowFragment row_fragment(uint64_t word, unsigned lane) {
  const uint32_t flips = 0 - lane % 2;
  return {{static_cast<uint32_t>(word) ^ flips, static_cast<uint32_t>(word >> 32) ^ flips}};
}

// Phase 3: bit (query_tile * kRowTiles + row_tile) * 4 + i where the sum i of those tiles is a near pair's.
template <unsigned kQueryTiles, unsigned kRowTiles>
ATH_BOTH uint64_t near_pairs(const Sums (&sums)[kQueryTiles][kRowTiles]) {
  constexpr unsigned kSums = 4 * kQueryTiles * kRowTiles;
  static_assert(kSums <= 64, "a bit each");
  int32_t signs[4] = {};  // in parallel: one after the other they would wait for each other
  ATH_UNROLL
  for (unsigned i = 0; i < kSums; ++i) signs[i % 4] |= sums[i / 4 / kRowTiles][i / 4 % kRowTiles].of[i % 4];
  if ((signs[0] | signs[1] | signs[2] | signs[3]) >= 0) return 0;
  uint32_t near[2] = {};
  ATH_UNROLL
  for (unsigned i = kSums; i-- > 0;)
    near[i / 32] =
        near[i / 32] << 1 | static_cast<uint32_t>(sums[i / 4 / kRowTiles][i / 4 % kRowTiles].of[i % 4]) >> 31;
  return uint64_t{near[1]} << 32 | near[0];
}

// Phase 3, rare part: the pair of a bit.
template <unsigned kQueryTiles, unsigned kRowTiles>
ATH_BOTH Near near_pair(const Scan& scan, unsigned first, unsigned bit, uint64_t step, unsigned lane) {
  const unsigned i = bit % 4, row_tile = bit / 4 % kRowTiles, query_tile = bit / 4 / kRowTiles;
  const uint64_t row = row_of_column<kRowTiles>(step, row_tile, 2 * (lane % 4) + i % 2);
  return look_again(scan, first, query_of_sum(query_tile, i, lane), row);
}

}  // namespace cuda
}  // namespace athsearch
