// Re-ranking by byte tables: for each byte of a code, a query's sums for all of its 256 values are made once, and a
// candidate's score is a look-up a byte. Plain C++, the same for every CPU.
//
// Cost: 256 additions, in vectors, and R look-ups a byte of the code, then choosing k of R integers.
//
// Scores of R = 200 took 0.79, 1.35 and 2.50 us a query at 32, 64 and 128 bits. Masking the weights by the bits in
// vectors and adding them up (AND, compare, AND, PMADDWD; nothing to prepare) took 0.97, 1.60 and 2.86 us with AVX2 and
// 1.26, 2.24 and 4.19 with SSE2, tables of nibbles 2.43, 4.48 and 10.58 (best of 200 turns, AMD EPYC 7001, GCC).
// Vectors win for R = 50 (0.41 to 0.65 us at 64 bits), which is not worth a file for each CPU.
//
// Limits: tables take a KiB a byte and outgrow a 32 KiB L1 cache past 256 bits; at 1024 bits AVX2 took 21 us, this 24.
#include "rerank.h"

#include <algorithm>
#include <cmath>

#include "partition.h"

namespace athsearch {

namespace {

constexpr size_t kValues = 256;                 // of a byte
constexpr unsigned kPlaceBits = 36;             // of a key
constexpr int32_t kLargestScore = 1 << 27;      // no score reaches it
constexpr uint64_t kLookUpsPerTask = 1u << 15;  // which take longer than a thread takes to wake

// tables[256 b + v]: the sum of byte b's bits' weights, those of bits that are 0 in v counted negative. Bits past the
// code's end weigh nothing.
void fill_tables(const int16_t* weights, size_t n_bits, int32_t* tables) {
  for (size_t first = 0; first < n_bits; first += 8, tables += kValues) {
    int32_t of_bit[8] = {}, of_zero = 0;
    for (size_t bit = 0; bit < std::min<size_t>(8, n_bits - first); ++bit) {
      of_bit[bit] = weights[first + bit];
      of_zero -= of_bit[bit];
    }
    tables[0] = of_zero;
    for (size_t bit = 0; bit < 8; ++bit)
      for (size_t value = 0; value < size_t{1} << bit; ++value)
        tables[(size_t{1} << bit) + value] = tables[value] + 2 * of_bit[bit];
  }
}

int32_t score_of(const uint64_t* code, size_t n_bytes, const int32_t* tables) {
  int32_t score = 0;
  for (; n_bytes >= 8; n_bytes -= 8, ++code, tables += 8 * kValues)
    for (unsigned byte = 0; byte < 8; ++byte) score += tables[byte * kValues + (*code >> 8 * byte & 0xff)];
  for (unsigned byte = 0; byte < n_bytes; ++byte) score += tables[byte * kValues + (*code >> 8 * byte & 0xff)];
  return score;
}

// One thread's buffers.
class Reranker {
 public:
  explicit Reranker(size_t n_bits) : n_bits_(n_bits), n_bytes_((n_bits + 7) / 8), tables_(n_bytes_ * kValues) {}

  // codes: row-major [n, n_words]. Writes the first k by (score descending, place), k <= n, places counted from
  // `first`. A key is one integer, the score's distance from the largest above the place.
  void rerank(const uint64_t* codes, size_t n, const int16_t* weights, size_t k, int64_t first, int64_t* places,
              int32_t* scores) {
    const size_t n_words = (n_bits_ + 63) / 64;
    fill_tables(weights, n_bits_, tables_.data());
    keys_.resize(n);
    for (size_t place = 0; place < n; ++place) {
      const int32_t score = score_of(codes + place * n_words, n_bytes_, tables_.data());
      keys_[place] = static_cast<uint64_t>(kLargestScore - score) << kPlaceBits | place;
    }
    const auto end = keys_.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(keys_.begin(), end, keys_.end());
    std::sort(keys_.begin(), end);
    for (size_t i = 0; i < k; ++i) {
      places[i] = first + static_cast<int64_t>(keys_[i] & ((uint64_t{1} << kPlaceBits) - 1));
      scores[i] = kLargestScore - static_cast<int32_t>(keys_[i] >> kPlaceBits);
    }
  }

 private:
  size_t n_bits_, n_bytes_;
  std::vector<int32_t> tables_;
  std::vector<uint64_t> keys_;
};

}  // namespace

bool quantise(const float* values, size_t n_bits, int16_t* weights) {
  float largest = 0;
  for (size_t bit = 0; bit < n_bits; ++bit) {
    if (!std::isfinite(values[bit])) return false;
    largest = std::max(largest, std::fabs(values[bit]));
  }
  const double scale = largest == 0 ? 0 : 32767.0 / static_cast<double>(largest);
  for (size_t bit = 0; bit < n_bits; ++bit)
    weights[bit] = static_cast<int16_t>(std::nearbyint(static_cast<double>(values[bit]) * scale));
  return true;
}

RowCodes::RowCodes(const Database& database) : database_(database) {
  uint64_t first_row = database.first_row;
  for (const Segment& segment : database.segments) {
    first_rows_.push_back(first_row);
    first_row += segment.n_rows;
  }
}

const uint64_t* RowCodes::operator[](uint64_t row) const {
  // The last segment that begins at or before this row; empty ones begin where the next one does.
  const auto after = std::upper_bound(first_rows_.begin(), first_rows_.end(), row);
  const auto number = static_cast<size_t>(after - first_rows_.begin()) - 1;
  return database_.segments[number].words + (row - first_rows_[number]) * database_.n_words();
}

Reranked rerank(const Candidates& candidates, const int16_t* weights, uint64_t k, unsigned threads) {
  const size_t n_queries = candidates.n_queries, n_bits = candidates.n_bits, n_words = (n_bits + 63) / 64;
  const int64_t* const offsets = candidates.offsets;
  Reranked reranked;
  reranked.offsets.push_back(0);
  for (size_t q = 0; q < n_queries; ++q) {
    const auto n = static_cast<uint64_t>(offsets[q + 1] - offsets[q]);
    reranked.offsets.push_back(reranked.offsets.back() + static_cast<int64_t>(std::min(k, n)));
  }
  reranked.places.resize(static_cast<size_t>(reranked.offsets.back()));
  reranked.scores.resize(reranked.places.size());

  const uint64_t n_codes = static_cast<uint64_t>(offsets[n_queries]) + kValues * n_queries;  // tables count like codes
  const uint64_t n_looked_up = n_codes * ((n_bits + 7) / 8);
  const size_t n_at_once = std::max<uint64_t>(1, kLookUpsPerTask * n_queries / std::max<uint64_t>(1, n_looked_up));
  for_each_task((n_queries + n_at_once - 1) / n_at_once, threads, nullptr, [&](size_t task) {
    Reranker reranker(n_bits);
    for (size_t q = task * n_at_once; q < std::min((task + 1) * n_at_once, n_queries); ++q) {
      const int64_t first = offsets[q], to = reranked.offsets[q];
      reranker.rerank(candidates.words + static_cast<size_t>(first) * n_words,
                      static_cast<size_t>(offsets[q + 1] - first), weights + q * n_bits,
                      static_cast<size_t>(reranked.offsets[q + 1] - to), first, reranked.places.data() + to,
                      reranked.scores.data() + to);
    }
  });
  return reranked;
}

}  // namespace athsearch
