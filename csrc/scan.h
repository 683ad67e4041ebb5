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

// Rows that are prepared and compared together, and queries that are shown them together, at most.
constexpr size_t kMostPartRows = 512;
constexpr size_t kPartQueries = 12;

// Memory that will be needed soon, from any address on, for kernels that fetch it little by little meanwhile. It may
// lie beyond the database.
struct Ahead {
  uintptr_t begin;
  size_t n_lines;
};

// A part of a database: its rows as callers have them, and in a layout of the kernel's own.
struct Part {
  const uint64_t* words;  // row-major [n_rows, n_words]
  size_t n_rows;          // at most what the preparation's part_rows says
  size_t n_bits;          // of a code
  uint64_t first_row;     // the database row of its row 0
  uint8_t* prepared;      // aligned to 64 bytes
  Ahead ahead;            // to be fetched while it is prepared

  size_t n_words() const { return (n_bits + 63) / 64; }
};

// What queries, at most kPartQueries, ask of a part and get.
struct PartQueries {
  const uint64_t* words;                              // row-major [n, n_words]
  const uint8_t* plan;                                // what was planned of them
  const int64_t* radii;                               // [n], inclusive, below 2^31 - 1; -1: no hit is wanted
  size_t n;                                           // from 1
  Ahead ahead;                                        // to be fetched while they are answered
  size_t n_hits[kPartQueries];                        // written, as are
  Hit hits[kPartQueries][kMostPartRows + kHitSlack];  // each query's hits, rows ascending
};

// A layout of a kernel's own, worth its making where several queries share it.
struct Preparation {
  size_t (*part_rows)(size_t n_bits);                       // that a part has, a multiple of 64, but for the last one
  size_t (*n_bytes)(size_t n_bits);                         // that a part takes, a multiple of 64
  size_t (*n_plan_bytes)(size_t n_bits, size_t n_queries);  // that a plan takes, a multiple of 8
  // Writes what to do for queries, row-major [n, n_words], to a plan aligned to 8 bytes; that of each kPartQueries
  // stands on its own.
  void (*plan)(const uint64_t* queries, size_t n, size_t n_bits, uint8_t* plan);
  void (*prepare)(const Part& part);  // writes part.prepared
  void (*within)(const Part& part, PartQueries& queries);
};

struct Kernel {
  const char* name;
  uint32_t features;  // exactly those of the instructions it uses
  WithinFunction within;
  Layout layout;  // of the blocks that `within` takes
  // What beats `within` on so many queries; null where nothing does. Null itself where nothing ever does.
  const Preparation* (*preparation)(size_t n_bits, size_t n_queries);
};

}  // namespace athsearch
