// The core without Python, for sanitizers: every kernel given on the build line, several threads, ragged sizes, against
// a plain search. Exits 1 with the failing case.
#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include "../../csrc/scanner.h"

using namespace athsearch;

namespace athsearch {
extern const Kernel kernel_scalar;
extern const Kernel kernel_avx512_vpopcntdq;
}  // namespace athsearch

static std::vector<Hit> plain_search(const std::vector<uint64_t>& rows, const uint64_t* query, size_t n_words,
                                     uint64_t radius, const uint64_t* mask) {
  std::vector<Hit> hits;
  for (size_t row = 0; row < rows.size() / n_words; ++row) {
    uint64_t distance = 0;
    for (size_t w = 0; w < n_words; ++w) distance += __builtin_popcountll(rows[row * n_words + w] ^ query[w]);
    if (distance <= radius && (!mask || (mask[row / 64] >> (row % 64) & 1))) hits.push_back(make_hit(distance, row));
  }
  std::sort(hits.begin(), hits.end());
  return hits;
}

static bool check(const Kernel& kernel, size_t n_words, size_t n_rows, unsigned threads, bool masked, unsigned seed) {
  std::mt19937_64 random(seed);
  // Few distinct values, so that ties abound.
  std::vector<uint64_t> rows(n_rows * n_words), queries(4 * n_words), mask((n_rows + 63) / 64);
  for (uint64_t& word : rows) word = random() & random() & random();
  for (uint64_t& word : queries) word = random() & random() & random();
  for (uint64_t& word : mask) word = random() % 4 ? 0 : random();
  const size_t cut = n_rows / 3;
  const Database database{{{rows.data(), cut}, {rows.data() + cut * n_words, n_rows - cut}}, n_words};
  const Options options{&kernel, masked ? mask.data() : nullptr, threads};
  const uint64_t k = 17, radius = 12 * n_words;
  const Found best = top_k(database, {queries.data(), 4}, k, options);
  const Found near = within(database, {queries.data(), 4}, radius, options);
  const std::vector<int64_t> ties = count_ties(database, {queries.data(), 4}, best, options);
  for (size_t q = 0; q < 4; ++q) {
    const uint64_t* query = queries.data() + q * n_words;
    std::vector<Hit> all = plain_search(rows, query, n_words, 64 * n_words, options.mask);
    const std::vector<Hit> close = plain_search(rows, query, n_words, radius, options.mask);
    const size_t n_best = std::min<size_t>(k, all.size());
    const int64_t n_ties = n_best == 0 ? 0 : std::count_if(all.begin(), all.end(), [&](Hit hit) {
      return hit_distance(hit) == hit_distance(all[n_best - 1]);
    });
    all.resize(n_best);
    const std::vector<Hit> got(best.hits.begin() + best.offsets[q], best.hits.begin() + best.offsets[q + 1]);
    const std::vector<Hit> got_near(near.hits.begin() + near.offsets[q], near.hits.begin() + near.offsets[q + 1]);
    if (got != all || got_near != close || ties[q] != n_ties) return false;
  }
  return true;
}

int main() {
  for (const Kernel* kernel : {&kernel_scalar, &kernel_avx512_vpopcntdq})
    for (size_t n_words : {1, 2, 3, 8, 64})
      for (size_t n_rows : {0, 1, 7, 8, 9, 63, 64, 65, 4095, 4097, 150001})
        for (unsigned threads : {1u, 4u})
          for (bool masked : {false, true}) {
            if (n_rows * n_words > 300001 || (threads > 1 && n_rows < 4095)) continue;
            if (!check(*kernel, n_words, n_rows, threads, masked, static_cast<unsigned>(n_rows + n_words))) {
              std::printf("%s: wrong at n_words %zu, n_rows %zu, threads %u, masked %d\n", kernel->name, n_words,
                          n_rows, threads, masked);
              return 1;
            }
          }
  return 0;
}
