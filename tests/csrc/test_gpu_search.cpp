// The GPU's search without a GPU: its kernels' phases on an emulated device, against a plain sort. Exits 1 with the
// failing case.
#include <cstdio>

#include "../../cuda/database.h"
#include "emulated_device.h"

using namespace athsearch;
using namespace athsearch::cuda;

namespace {

struct Case {
  uint64_t n_rows, n_queries, k;
  unsigned n_bits;
  double flip;  // how often a bit differs from that of one of three centres: many ties when it is small
  double allowed;
  uint64_t seed;
  bool is_sorted;  // codes in ascending order, so that a sample of some steps says little about the others

  void print(const char* what) const {
    std::printf("%s: n_rows %llu n_queries %llu k %llu n_bits %u flip %g allowed %g seed %llu sorted %d\n", what,
                static_cast<unsigned long long>(n_rows), static_cast<unsigned long long>(n_queries),
                static_cast<unsigned long long>(k), n_bits, flip, allowed, static_cast<unsigned long long>(seed),
                is_sorted);
  }
};

std::vector<uint64_t> random_codes(const Case& given, uint64_t n, std::mt19937_64& random) {
  const unsigned n_words = (given.n_bits + 63) / 64;
  std::mt19937_64 same(1);
  std::bernoulli_distribution half(0.5), flips(given.flip);
  std::vector<uint64_t> centres(3 * n_words, 0), codes(n * n_words, 0);
  for (size_t centre = 0; centre < 3; ++centre)
    for (unsigned bit = 0; bit < given.n_bits; ++bit)
      centres[centre * n_words + bit / 64] |= uint64_t{half(same)} << (bit % 64);
  for (uint64_t row = 0; row < n; ++row) {
    const uint64_t centre = given.is_sorted ? row * 3 / n : random() % 3;
    for (unsigned bit = 0; bit < given.n_bits; ++bit)
      codes[row * n_words + bit / 64] |= (centres[centre * n_words + bit / 64] >> (bit % 64) & 1) << (bit % 64);
    if (given.flip > 0)
      for (unsigned bit = 0; bit < given.n_bits; ++bit)
        codes[row * n_words + bit / 64] ^= uint64_t{flips(random)} << (bit % 64);
  }
  return codes;
}

std::vector<Hit> plain_search(const std::vector<uint64_t>& rows, const uint64_t* query, unsigned n_words,
                              const uint64_t* mask) {
  std::vector<Hit> hits;
  for (uint64_t row = 0; row < rows.size() / n_words; ++row) {
    uint64_t distance = 0;
    for (unsigned w = 0; w < n_words; ++w)
      distance += static_cast<uint64_t>(__builtin_popcountll(rows[row * n_words + w] ^ query[w]));
    if (!mask || (mask[row / 64] >> (row % 64) & 1)) hits.push_back(make_hit(distance, row));
  }
  std::sort(hits.begin(), hits.end());
  return hits;
}

std::vector<Hit> answer_of(const Answer& answer, size_t q) {
  return {answer.hits.begin() + answer.offsets[q], answer.hits.begin() + answer.offsets[q + 1]};
}

uint64_t n_narrowed = 0, n_repeated = 0;  // searches that took the rare ways, lest they be tested by none

bool is_right_by(const Case& given, const LeastQueries& least) {
  const unsigned n_words = (given.n_bits + 63) / 64;
  std::mt19937_64 random(given.seed + 1);
  const std::vector<uint64_t> rows = random_codes(given, given.n_rows, random);
  const std::vector<uint64_t> queries = random_codes(given, given.n_queries, random);
  std::vector<uint64_t> mask((given.n_rows + 63) / 64, 0);
  std::bernoulli_distribution is_allowed(given.allowed);
  for (uint64_t row = 0; row < given.n_rows; ++row) mask[row / 64] |= uint64_t{is_allowed(random)} << (row % 64);
  const uint64_t* asked_mask = given.allowed < 1 ? mask.data() : nullptr;

  EmulatedDevice device(given.seed, 1 + static_cast<unsigned>(random() % 7), uint64_t{1} << 33);
  device.least = least;
  Database database(device, given.n_rows, n_words);
  const uint64_t cut = given.n_rows == 0 ? 0 : random() % given.n_rows;
  database.append(rows.data(), cut);
  database.append(rows.data() + cut * n_words, given.n_rows - cut);

  const uint64_t k = std::min(given.k, std::max<uint64_t>(given.n_rows, 1)), radius = given.n_bits / 3;
  const Answer best = database.top_k(queries.data(), given.n_queries, k, asked_mask);
  n_repeated += device.n_scans > 1;
  n_narrowed += device.n_counts > 1;
  const Answer near = database.within(queries.data(), given.n_queries, radius, asked_mask);
  if (best.offsets.size() != given.n_queries + 1 || near.offsets.size() != given.n_queries + 1) return false;
  for (size_t q = 0; q < given.n_queries; ++q) {
    const std::vector<Hit> all = plain_search(rows, &queries[q * n_words], n_words, asked_mask);
    const auto n = static_cast<std::ptrdiff_t>(std::min<uint64_t>(k, all.size()));
    if (answer_of(best, q) != std::vector<Hit>(all.begin(), all.begin() + n)) return false;
    int64_t n_tied = 0;
    for (const Hit hit : all) n_tied += n > 0 && hit_distance(hit) == hit_distance(all[static_cast<size_t>(n) - 1]);
    if (best.ties[q] != n_tied) return false;
    const auto end = std::upper_bound(all.begin(), all.end(), last_at(radius));
    if (answer_of(near, q) != std::vector<Hit>(all.begin(), end)) return false;
  }
  if (given.n_rows == 0) return true;
  const ScanKernel kernel = least.kernel_for(given.n_queries);
  return (device.n_wgmma_scans >= 2) == (kernel == ScanKernel::kWgmma) &&
         (device.n_b1_scans >= 2) == (kernel == ScanKernel::kB1);
}

constexpr LeastQueries kByPopcount, kByB1{1, kNever}, kByWgmma{kNever, 1};
constexpr LeastQueries kByNumber{kLeastB1Queries, kLeastWgmmaQueries};

bool is_right(const Case& given, std::initializer_list<LeastQueries> kernels) {
  return std::all_of(kernels.begin(), kernels.end(),
                     [&](const LeastQueries& least) { return is_right_by(given, least); });
}

// Each element of the fragments' matrices is in one place of one lane.
bool is_fragment_layout_right() {
  const auto is_covered = [](unsigned n_rows, unsigned n_columns, unsigned n_of_lane, auto place_of,
                             unsigned n_lanes = 32) {
    std::vector<bool> is_held(n_rows * n_columns, false);
    for (unsigned lane = 0; lane < n_lanes; ++lane)
      for (unsigned i = 0; i < n_of_lane; ++i) {
        const Place place = place_of(lane, i);
        if (place.row >= n_rows || place.column >= n_columns || is_held[place.row * n_columns + place.column])
          return false;
        is_held[place.row * n_columns + place.column] = true;
      }
    return n_lanes * n_of_lane == n_rows * n_columns;
  };
  return is_covered(16, 256, 128, place_in_a) && is_covered(256, 8, 64, place_in_b) &&
         is_covered(16, 8, 4, place_in_sums) &&
         is_covered(kWgmmaQueries, kWgmmaRows, 2 * kHalfSums, place_in_wgmma_sums, kWgmmaThreads);
}

// Every word of every row has a place of its own, and the threads of a step's blocks see each padded row once.
bool is_layout_right() {
  for (unsigned n_words = 1; n_words <= 9; ++n_words) {
    const uint64_t n_rows = n_padded_rows(3 * kTileRows + 5);
    std::vector<bool> is_taken(n_rows * n_words, false);
    for (uint64_t row = 0; row < n_rows; ++row)
      for (unsigned word = 0; word < n_words; ++word) {
        const uint64_t place = word_place(row, word, n_words);
        if (place >= is_taken.size() || is_taken[place]) return false;
        if (row % 2 == 1 && place != word_place(row - 1, word, n_words) + 1) return false;  // read as a pair
        is_taken[place] = true;
      }
    for (const unsigned n_queries : {1u, kQueriesAPass}) {
      const unsigned n_slots = rows_a_step(n_words, n_queries);
      std::vector<bool> is_seen(n_rows, false);
      for (uint64_t step = 0; step < n_steps(n_rows, n_slots); ++step)
        for (unsigned thread = 0; thread < kThreads; ++thread)
          for (unsigned slot = 0; slot < n_slots; ++slot) {
            const uint64_t row = row_of(step, slot, n_slots, thread);
            if (row >= n_rows || is_seen[row]) return false;
            is_seen[row] = true;
          }
      if (std::count(is_seen.begin(), is_seen.end(), true) != static_cast<std::ptrdiff_t>(n_rows)) return false;
    }
  }
  return word_place(5, 0, 1) == 5 && word_place((uint64_t{1} << 33) + 7, 0, 1) == (uint64_t{1} << 33) + 7;
}

// Candidates of rows past 2^31 in any order, many of them beyond the limit.
bool is_sort_right(uint64_t seed) {
  std::mt19937_64 random(seed);
  for (const size_t n : {0u, 1u, 2u, 255u, 256u, 257u, 5000u}) {
    std::vector<Hit> candidates, expected;
    for (size_t i = 0; i < n; ++i) candidates.push_back(make_hit(random() % 5, i * 1'000'003));
    std::shuffle(candidates.begin(), candidates.end(), random);
    const Hit limit = make_hit(3, 2'000'000'000);
    for (const Hit hit : candidates)
      if (hit <= limit) expected.push_back(hit);
    std::sort(expected.begin(), expected.end());
    const std::vector<uint64_t> n_candidates{n}, n_kept{expected.size()}, begins{0, expected.size()};
    std::vector<Hit> others(n), hits(expected.size());
    EmulatedDevice device(seed, 1, 0);
    device.sort({{bits_below(n * 1'000'003), 3},
                 candidates.data(),
                 others.data(),
                 n,
                 n_candidates.data(),
                 &limit,
                 n_kept.data(),
                 begins.data(),
                 hits.data()},
                1);
    if (hits != expected) return false;
  }
  return true;
}

}  // namespace

int main() {
  if (!is_fragment_layout_right()) return std::puts("the fragments' layout is wrong"), 1;
  if (!is_layout_right()) return std::puts("the layout is wrong"), 1;
  for (const uint64_t seed : {0, 1, 2})
    if (!is_sort_right(seed)) return std::puts("the sort is wrong"), 1;
  std::vector<Case> cases;
  uint64_t seed = 0;
  for (const unsigned n_bits : {1u, 7u, 36u, 64u, 65u, 128u, 192u, 256u, 320u, 384u, 448u, 512u, 576u, 4096u})
    for (const uint64_t n_rows : {0, 1, 63, 513, 2049}) {
      if (n_bits > 600 && n_rows > 600) continue;
      for (const uint64_t n_queries : {1, 3, 9}) {
        const double flip = seed % 3 == 0 ? 0.5 : seed % 3 == 1 ? 0.02 : 0;
        const double allowed = seed % 4 == 0 ? 1 : seed % 4 == 1 ? 0.5 : seed % 4 == 2 ? 0.01 : 0;
        cases.push_back({n_rows, n_queries, seed % 5 == 0 ? n_rows + 1 : 1 + seed % 40, n_bits, flip, allowed, seed,
                         seed % 7 == 0});
        ++seed;
      }
    }
  // Passes of the tensor cores: full ones, and one query more.
  for (const unsigned n_bits : {20u, 64u, 128u, 200u, 520u})
    for (const uint64_t n_queries : {16, 17, 64, 130}) {
      cases.push_back({2000, n_queries, 1 + seed % 40, n_bits, 0.3, seed % 2 == 0 ? 1 : 0.5, seed, false});
      ++seed;
    }
  // Several tiles of queries a pass, and passes of 3 tiles and of 2.
  cases.push_back({600, 257, 5, 65, 0.3, 0.5, seed, false});
  cases.push_back({600, 257, 5, 640, 0.3, 1, seed + 1, false});
  for (const Case& given : cases)
    if (!is_right(given, {kByPopcount, kByB1, kByWgmma, kByNumber})) return given.print("wrong"), 1;
  // More rows than there is room for candidates: without ties, with a few codes only, in the order of the codes, and
  // with the k-th at the end of a range of rows.
  n_repeated = n_narrowed = 0;
  for (const Case& given : {Case{200'000, 2, 3, 64, 0.5, 1, 5, false}, Case{200'000, 5, 100, 20, 0, 1, 6, false},
                            Case{200'000, 1, 90'000, 20, 0, 0.9, 0, false}, Case{150'000, 1, 10, 64, 0.01, 1, 8, true},
                            Case{150'000, 4, 1, 8, 0, 1, 9, true}, Case{150'000, 4, 10, 64, 0.3, 0.3, 10, true},
                            Case{300'000, 1, 512, 64, 0, 1, 11, true}})
    if (!is_right(given, {kByPopcount, kByB1, kByNumber}) || (given.n_queries > 4 && !is_right(given, {kByWgmma})))
      return given.print("wrong"), 1;
  if (n_repeated == 0 || n_narrowed == 0) return std::puts("no search overflowed: these cases test nothing"), 1;
  return 0;
}
