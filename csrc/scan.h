// The contract between the scanner and its kernels: which rows of a block lie within a radius of a query, and how far?
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace athsearch {

// A hit is one integer, distance in the high 16 bits and row in the low 48. Ascending integers are the total order
// (distance, row), so heaps, sorts and merges need no comparator and no tie rule.
using Hit = uint64_t;
constexpr unsigned kRowBits = 48;
constexpr Hit make_hit(uint64_t distance, uint64_t row) { return distance << kRowBits | row; }
constexpr uint64_t hit_distance(Hit hit) { return hit >> kRowBits; }
constexpr uint64_t hit_row(Hit hit) { return hit & ((uint64_t{1} << kRowBits) - 1); }

// How a kernel wants the words of a block: row by row, as callers have them, or word by word, which makes a copy.
enum class Layout { kRows, kColumns };

// Rows of a database. Word w of row r is words[r * stride + w] in rows, words[w * stride + r] in columns. This may be
// the caller's own array, so a kernel reads no row past n_rows.
struct Block {
  const uint64_t* words;
  size_t stride;
  size_t n_words;
  size_t n_rows;
  uint64_t first_row;  // the database row of the block's row 0
};

// A kernel may write this many hits more than it returns, so that it can store whole registers.
constexpr size_t kHitSlack = 8;

// Writes the block's hits within `radius` (inclusive) of the query, rows ascending, to `hits`, which has room for
// n_rows + kHitSlack. Returns how many there are. query: uint64 [n_words], n_words from 1; radius: below 2^31 - 1.
using WithinFunction = size_t (*)(const uint64_t* query, const Block& block, uint64_t radius, Hit* hits);

// Rows of a database in a layout of the kernel's own, worth its making where several queries share them.
struct Prepared {
  const uint8_t* bytes;
  size_t n_bytes;  // of a code
  size_t n_rows;
  uint64_t first_row;
};

// Prepared rows are compared in parts that begin at multiples of this many rows.
constexpr size_t kPartRows = 128;

struct Preparation {
  size_t bytes_per_byte;  // what a byte of a code takes; rows are rounded up to whole parts
  // words: row-major [n_rows, n_words]; only the first n_bytes of each row are not zero.
  void (*prepare)(const uint64_t* words, size_t n_rows, size_t n_words, size_t n_bytes, uint8_t* bytes);
  size_t (*within)(const uint64_t* query, const Prepared& rows, uint64_t radius, Hit* hits);  // as WithinFunction
};

struct Kernel {
  const char* name;
  uint32_t features;  // exactly those of the instructions it uses
  WithinFunction within;
  Layout layout;                   // of the blocks that `within` takes
  const Preparation* preparation;  // null where none beats `within` on many queries
};

}  // namespace athsearch
