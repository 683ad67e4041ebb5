// Rows within a radius by POPCNT, row by row, which is enough for what memory delivers: what x86 kernels do for few
// queries. Per word a load, XOR and POPCNT, and an ADD where there are several; per row CMP and a branch that is rarely
// taken once the radius is tight.
#pragma once

#include "../scan.h"

namespace athsearch {

// Each kernel has its own copy, made with the instructions that it may use.
namespace {

inline uint64_t n_differing(uint64_t a, uint64_t b) { return static_cast<uint64_t>(__builtin_popcountll(a ^ b)); }

constexpr size_t kRows = 8;

// Asks for the cache line so many bytes on, which may lie beyond the rows.
inline void fetch(const uint64_t* words, size_t bytes_ahead) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(words) + bytes_ahead));
}

// Whether any of eight rows, `stride` words apart, lies within the radius. bytes_ahead: what to fetch meanwhile, or 0.
template <size_t kWords>
inline bool is_any_near(const uint64_t* query, const uint64_t* rows, size_t n_words, size_t stride, uint64_t radius,
                        size_t bytes_ahead) {
  uint64_t distances[kRows] = {};
  bool is_any = false;
  if constexpr (kWords == 0) {
    for (size_t word = 0; word < n_words; ++word) {
      if (bytes_ahead != 0) fetch(rows + word * kRows, bytes_ahead);
      for (size_t i = 0; i < kRows; ++i) distances[i] += n_differing(query[word], rows[i * stride + word]);
    }
    for (size_t i = 0; i < kRows; ++i) is_any |= distances[i] <= radius;
  } else {
    if (bytes_ahead != 0)
      for (size_t word = 0; word < kWords; ++word) fetch(rows + word * kRows, bytes_ahead);
    // Row by row, for a compare and its branch are one operation; where all compares are collected they are three.
    for (size_t i = 0; i < kRows && !is_any; ++i) {
      for (size_t word = 0; word < kWords; ++word) distances[i] += n_differing(query[word], rows[i * kWords + word]);
      is_any = distances[i] <= radius;
    }
  }
  return is_any;
}

// Rows of kWords words, or of any number where that is 0.
template <size_t kWords>
size_t within_rows(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  // Fetched from memory: the processor's own prefetching stops at pages. Short blocks do not lie one after the other.
  constexpr size_t kBytesAhead = kWords == 1 ? 1024 : 4096, kStreamedBytes = 16384;
  const size_t n_words = kWords == 0 ? block.n_words : kWords, stride = kWords == 0 ? block.stride : kWords;
  const size_t bytes_ahead = block.n_rows * n_words * 8 >= kStreamedBytes ? kBytesAhead : 0;
  size_t row = 0, n_hits = 0;
  while (row < block.n_rows) {
    const uint64_t* rows = block.words + row * stride;
    size_t n_here = block.n_rows - row;
    if (n_here >= kRows) {
      n_here = kRows;
      if (!is_any_near<kWords>(query, rows, n_words, stride, radius, bytes_ahead)) n_here = 0;
    }
    for (size_t i = 0; i < n_here; ++i) {
      uint64_t distance = 0;
      for (size_t word = 0; word < n_words; ++word) distance += n_differing(query[word], rows[i * stride + word]);
      hits[n_hits] = make_hit(distance, block.first_row + row + i);
      n_hits += distance <= radius;
    }
    row += kRows;
  }
  return n_hits;
}

size_t within_by_popcnt(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits) {
  switch (block.n_words) {
    case 1:
      return within_rows<1>(query, block, radius, hits);
    case 2:
      return within_rows<2>(query, block, radius, hits);
    case 4:
      return within_rows<4>(query, block, radius, hits);
    default:
      return within_rows<0>(query, block, radius, hits);
  }
}

}  // namespace

}  // namespace athsearch
