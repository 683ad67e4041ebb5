// Where the words of a code lie in the GPU's memory, and which rows a thread compares.
//
// Rows stand in tiles of 512. In a tile the words 0 of all rows come first, then their words 1, and so on, so that a
// warp that reads the same word of neighbouring rows reads whole cache lines whatever the length of a code. With one
// word that is the callers' own order. The last tiles are padded with zeros to a whole step of any kernel.
#pragma once

#include "portable.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kThreads = 256;               // of a block of the scan
constexpr uint64_t kTileRows = 2 * kThreads;     // two neighbouring rows a thread: one 16-byte read of a word of both
constexpr uint64_t kPaddedRows = 4 * kTileRows;  // of the largest step
constexpr unsigned kMostWords = 64;              // of a code
constexpr unsigned kMostUnrolledWords = 8;       // longer codes share one kernel

struct Codes {
  const uint64_t* words;
  uint64_t n_rows;
  unsigned n_words;
};

// How many rows there is memory for.
ATH_BOTH uint64_t n_padded_rows(uint64_t n_rows) { return (n_rows + kPaddedRows - 1) / kPaddedRows * kPaddedRows; }

// Where word `word` of a row lies.
ATH_BOTH uint64_t word_place(uint64_t row, unsigned word, unsigned n_words) {
  return (row / kTileRows * n_words + word) * kTileRows + row % kTileRows;
}

// The words at an even place and after it.
ATH_BOTH void read_pair(const uint64_t* pair, uint64_t& first, uint64_t& second) {
#ifdef __CUDA_ARCH__
  const ulonglong2 both = __ldg(reinterpret_cast<const ulonglong2*>(pair));
  first = both.x;
  second = both.y;
#else
  first = pair[0];
  second = pair[1];
#endif
}

// Word i of an array of rows, row-major, to its place.
ATH_BOTH void arrange_word(const uint64_t* rows, uint64_t i, unsigned n_words, uint64_t first_row, uint64_t* words) {
  words[word_place(first_row + i / n_words, static_cast<unsigned>(i % n_words), n_words)] = rows[i];
}

// How many rows a thread compares in a step, in pairs of neighbours from one tile after the other. As many as give a
// thread enough reads under way at once, and, with the queries of a pass, a bit each of 32.
ATH_BOTH constexpr unsigned rows_a_step(unsigned n_words, unsigned n_queries) {
  return n_queries > 1 ? (n_words == 1 || n_words == 2 ? 4 : 2) : n_words == 1 ? 8 : n_words == 2 ? 4 : 2;
}

// The row that a thread's slot, from 0 to n_slots - 1, stands for in a step.
ATH_BOTH uint64_t row_of(uint64_t step, unsigned slot, unsigned n_slots, unsigned thread) {
  return (step * (n_slots / 2) + slot / 2) * kTileRows + 2 * thread + slot % 2;
}

ATH_BOTH uint64_t n_steps(uint64_t n_rows, unsigned n_slots) {
  const uint64_t rows = kTileRows * (n_slots / 2);
  return (n_rows + rows - 1) / rows;
}

}  // namespace cuda
}  // namespace athsearch
