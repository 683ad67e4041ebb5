// The core without Python, for sanitizers: every kernel given on the build line, several threads, ragged sizes, against
// a plain search. Exits 1 with the failing case.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "../../csrc/multi_index.h"
#include "../../csrc/pool.h"
#include "../../csrc/rerank.h"
#include "../../csrc/scanner.h"

using namespace athsearch;

namespace athsearch {
extern const Kernel kernel_scalar;
#if defined(__aarch64__)
extern const Kernel kernel_neon;
static const Kernel* const kKernels[] = {&kernel_scalar, &kernel_neon};
#else
extern const Kernel kernel_avx2;
extern const Kernel kernel_avx512_vpopcntdq;
static const Kernel* const kKernels[] = {&kernel_scalar, &kernel_avx2, &kernel_avx512_vpopcntdq};
#endif
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

// The answers that every search has to give.
struct Truth {
  Queries queries;
  uint64_t k, radius;
  const Found& best;
  const std::vector<int64_t>& ties;
  const Found& near;
};

template <class Searched>
static bool is_equal(const Searched& searched, const Truth& truth, const Options& options) {
  std::vector<int64_t> ties;
  const Found found = top_k(searched, truth.queries, truth.k, options, &ties);
  const Found plain = top_k(searched, truth.queries, truth.k, options);
  const Found around = within(searched, truth.queries, truth.radius, options);
  const Found first = top_k(searched, {truth.queries.words, 1}, truth.k, options);  // all threads on one query
  return found.hits == truth.best.hits && found.offsets == truth.best.offsets && plain.hits == truth.best.hits &&
         ties == truth.ties && around.hits == truth.near.hits && around.offsets == truth.near.offsets &&
         first.hits == std::vector<Hit>(found.hits.begin(), found.hits.begin() + found.offsets[1]);
}

// Whether a search names the code of each of its hits, one that is the row's.
template <class Searched>
static bool is_naming_codes(const Searched& searched, const Database& codes, const Database& database,
                            const Truth& truth, Options options) {
  options.wants_codes = true;
  const Found found = top_k(searched, truth.queries, truth.k, options);
  if (found.hits != truth.best.hits || found.codes.size() != found.hits.size()) return false;
  const RowCodes of_codes(codes), of_rows(database);
  for (size_t i = 0; i < found.hits.size(); ++i) {
    const uint64_t* code = of_codes[found.codes[i]];
    if (!std::equal(code, code + codes.n_words(), of_rows[hit_row(found.hits[i])])) return false;
  }
  return true;
}

// Tables of the codes for substrings of at most so many bits, with the memory that holds them.
struct Tables {
  std::vector<SubstringTable> tables;
  std::vector<std::vector<uint32_t>> begins, numbers;
  std::vector<std::vector<uint64_t>> words;

  Tables(const Database& codes, unsigned most_bits, unsigned threads) {
    const size_t n = (codes.n_bits + most_bits - 1) / most_bits;
    unsigned first_bit = 0;
    for (size_t i = 0; i < n; ++i) {
      const auto n_bits = static_cast<unsigned>(codes.n_bits / n + (i < codes.n_bits % n));
      begins.emplace_back((size_t{1} << n_bits) + 1);
      numbers.emplace_back(codes.n_rows());
      words.emplace_back(codes.n_rows() * codes.n_words());
      fill_table(codes, first_bit, n_bits, begins[i].data(), words[i].data(), numbers[i].data(), threads, nullptr);
      tables.push_back({first_bit, n_bits, begins[i].data(), words[i].data(), numbers[i].data()});
      first_bit += n_bits;
    }
  }
};

// Whether searches over distinct codes, and over codes in the order of their substrings, answer the same.
static bool is_sorted_equal(const Database& database, const Truth& truth, Options options) {
  const Grouped grouped = group(database, options.threads, nullptr);
  const Database distinct{{{grouped.words.data(), grouped.offsets.size() - 1}}, database.n_bits};
  const Postings postings{distinct, grouped.offsets.data(), grouped.rows.data(), grouped.rows.size()};
  if (!is_equal(postings, truth, options) || !is_naming_codes(postings, distinct, database, truth, options))
    return false;
  if (database.n_bits > 200 || (database.n_rows() > 17 && database.n_rows() != 4097)) return true;  // to save time
  const unsigned most_bits = options.threads == 1 ? 7 : 12;
  const Tables of_distinct(distinct, most_bits, options.threads), of_rows(database, most_bits, options.threads);
  for (const double most_probing : {0., 1., 1e18}) {
    if (most_probing > 1 && truth.radius > 12) continue;  // as many buckets as there are
    options.most_probing = most_probing;
    const MultiIndex index{postings, of_distinct.tables};
    if (!is_equal(index, truth, options) || !is_naming_codes(index, distinct, database, truth, options)) return false;
    const Postings plain{database, nullptr, nullptr, database.n_rows()};
    if (!is_equal(MultiIndex{plain, of_rows.tables}, truth, options)) return false;
  }
  return true;
}

// Steps of so many buckets that several threads share one query's.
static bool check_long_steps() {
  for (const size_t n_bits : {48, 64, 70}) {
    const size_t n_words = (n_bits + 63) / 64, n_rows = 20000;
    const uint64_t last_bits = ~uint64_t{0} >> (64 * n_words - n_bits);
    std::mt19937_64 random(n_bits);
    std::vector<uint64_t> rows(n_rows * n_words), query(n_words);
    for (std::vector<uint64_t>* words : {&rows, &query}) {
      for (uint64_t& word : *words) word = random() & random();
      for (size_t last = n_words - 1; last < words->size(); last += n_words) (*words)[last] &= last_bits;
    }
    const Database database{{{rows.data(), n_rows}}, n_bits};
    const Tables tables(database, 16, 4);
    const MultiIndex index{{database, nullptr, nullptr, n_rows}, tables.tables};
    Options options{&kernel_scalar, nullptr, 4, nullptr};
    options.most_probing = 1e18;
    const Queries queries{query.data(), 1};
    std::vector<int64_t> ties;
    const Found best = top_k(database, queries, 500, options, &ties), near = within(database, queries, 20, options);
    if (!is_equal(index, {queries, 500, 20, best, ties, near}, options)) return false;
  }
  return true;
}

// Postings and tables that point past their end are found out before memory is read there.
static bool check_damage() {
  const std::vector<uint64_t> words = {0, 1, 2};
  const Database codes{{{words.data(), 3}}, 4};
  const std::vector<uint64_t> query = {0};
  const auto is_found = [&](std::vector<int64_t> offsets, std::vector<uint32_t> rows, uint32_t begin, uint32_t number,
                            uint32_t first = 0) {
    Tables tables(codes, 4, 1);
    tables.begins[0][0] += first;
    for (uint32_t& at : tables.begins[0]) at += begin;
    for (uint32_t& at : tables.numbers[0]) at += number;
    const MultiIndex index{{codes, offsets.data(), rows.data(), rows.size()}, tables.tables};
    Options options{&kernel_scalar, nullptr, 1, nullptr};
    options.most_probing = 1e18;
    try {
      top_k(index, {query.data(), 1}, 3, options);
    } catch (const Damaged&) {
      return true;
    }
    return false;
  };
  return !is_found({0, 1, 3, 4}, {3, 0, 1, 2}, 0, 0) && is_found({0, 1, 3, 5}, {3, 0, 1, 2}, 0, 0) &&
         is_found({0, 1, 1, 4}, {3, 0, 1, 2}, 0, 0) && is_found({0, 1, 3, 4}, {3, 0, 1, 4}, 0, 0) &&
         is_found({0, 1, 3, 4}, {3, 0, 1, 2}, 1, 0) && is_found({0, 1, 3, 4}, {3, 0, 1, 2}, 0, 0, 2) &&
         is_found({0, 1, 3, 4}, {3, 0, 1, 2}, 0, 1);
}

static bool check(const Kernel& kernel, size_t n_bits, size_t n_rows, size_t n_queries, unsigned threads, bool masked) {
  const size_t n_words = (n_bits + 63) / 64;
  const uint64_t last_bits = ~uint64_t{0} >> (64 * n_words - n_bits);
  std::mt19937_64 random(n_rows + n_bits);
  // Few distinct values, so that ties abound; in some cases queries have most bits set.
  std::vector<uint64_t> rows(n_rows * n_words), queries(n_queries * n_words), mask((n_rows + 63) / 64);
  for (uint64_t& word : rows) word = random() & random() & random();
  for (uint64_t& word : queries) word = random() & random() & random();
  if (n_rows % 2 == 0)
    for (uint64_t& word : queries) word = ~word;
  for (size_t row = 0; row < n_rows; ++row) rows[(row + 1) * n_words - 1] &= last_bits;
  for (size_t q = 0; q < n_queries; ++q) queries[(q + 1) * n_words - 1] &= last_bits;
  for (uint64_t& word : mask) word = random() % 4 ? 0 : random();
  const size_t cut = n_rows / 3;
  const Database database{{{rows.data(), cut}, {rows.data() + cut * n_words, n_rows - cut}}, n_bits};
  // Few rows a block, or many.
  const uint64_t block_bytes = threads == 1 ? 1 : 24 * 1024;
  const Options options{&kernel, masked ? mask.data() : nullptr, threads, nullptr, block_bytes};
  const uint64_t k = 17, radius = 12 * n_words;
  std::vector<int64_t> ties;
  const Found best = top_k(database, {queries.data(), n_queries}, k, options, &ties);
  const Found near = within(database, {queries.data(), n_queries}, radius, options);
  const Found same = top_k(database, {queries.data(), n_queries}, k, options);
  if (same.offsets != best.offsets || same.hits != best.hits) return false;
  if (!is_sorted_equal(database, {{queries.data(), n_queries}, k, radius, best, ties, near}, options)) return false;
  for (size_t q = 0; q < n_queries; ++q) {
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

static std::atomic<int> n_looks;

// A search that is interrupted says so, and leaves the threads fit for the next one.
static bool check_interruption() {
  const std::vector<uint64_t> rows(1 << 20), queries(64);
  const Database database{{{rows.data(), rows.size()}}, 64};
  Options options{&kernel_scalar, nullptr, 3, [] { return ++n_looks > 0; }};
  bool is_interrupted = false;
  try {
    for (int i = 0; i < 1000; ++i) within(database, {queries.data(), 64}, 0, options);
  } catch (const Interrupted&) {
    is_interrupted = true;
  }
  bool is_grouping_interrupted = false;
  try {
    group(database, 3, options.is_interrupted);
  } catch (const Interrupted&) {
    is_grouping_interrupted = true;
  }
  const bool is_looking_seldom = n_looks == 2;
  int n_interrupted = 0;
  const std::vector<uint64_t> many(1 << 20);
  const Database few{{{rows.data(), 10}}, 64};  // a pass over so few rows ends before it would look
  const Queries asked{many.data(), many.size()};
  for (const bool is_radius : {false, true}) {
    try {
      is_radius ? within(few, asked, 0, options) : top_k(few, asked, 1, options);
    } catch (const Interrupted&) {
      ++n_interrupted;
    }
  }
  options.is_interrupted = nullptr;
  return is_interrupted && is_looking_seldom && is_grouping_interrupted && n_interrupted == 2 &&
         top_k(database, {queries.data(), 64}, 3, options).hits.size() == 3 * 64;
}

// Re-ranked candidates against a sort by (score descending, place), a bit at a time; queries with none, few and many of
// them, scores that tie, and the largest there are. What lies past a code's end is of no account.
static bool check_rerank(size_t n_bits, size_t n_queries, unsigned threads) {
  const size_t n_words = (n_bits + 63) / 64;
  std::mt19937_64 random(n_bits + n_queries);
  std::vector<int64_t> offsets = {0};
  for (size_t q = 0; q < n_queries; ++q)
    offsets.push_back(offsets.back() + static_cast<int64_t>((q + 1) % 5 * (random() % 90)));
  std::vector<uint64_t> codes(static_cast<size_t>(offsets.back()) * n_words);
  std::vector<int16_t> weights(n_queries * n_bits);
  for (uint64_t& word : codes) word = random() & random();
  const int sizes[] = {32767, 1, 0};
  for (int16_t& weight : weights) weight = static_cast<int16_t>(sizes[random() % 3] * (random() % 2 ? 1 : -1));
  if (n_queries > 0) std::fill_n(weights.begin(), n_bits, static_cast<int16_t>(-32767));
  for (const uint64_t k : {uint64_t{1}, uint64_t{20}, ~uint64_t{0}}) {
    const Reranked found = rerank({codes.data(), offsets.data(), n_queries, n_bits}, weights.data(), k, threads);
    std::vector<int64_t> expected_offsets = {0};
    std::vector<std::pair<int64_t, int64_t>> expected;  // (-score, place)
    for (size_t q = 0; q < n_queries; ++q) {
      std::vector<std::pair<int64_t, int64_t>> all;
      for (int64_t place = offsets[q]; place < offsets[q + 1]; ++place) {
        int64_t score = 0;
        for (size_t bit = 0; bit < n_bits; ++bit) {
          const bool is_set = codes[static_cast<size_t>(place) * n_words + bit / 64] >> bit % 64 & 1;
          score += is_set ? weights[q * n_bits + bit] : -weights[q * n_bits + bit];
        }
        all.emplace_back(-score, place);
      }
      std::sort(all.begin(), all.end());
      all.resize(std::min<uint64_t>(k, all.size()));
      expected.insert(expected.end(), all.begin(), all.end());
      expected_offsets.push_back(static_cast<int64_t>(expected.size()));
    }
    if (found.offsets != expected_offsets || found.scores.size() != expected.size()) return false;
    for (size_t i = 0; i < expected.size(); ++i)
      if (found.places[i] != expected[i].second || found.scores[i] != -expected[i].first) return false;
  }
  return true;
}

// Several threads search at once, and one of them throws now and then; every body is called for its own work.
static bool check_pool() {
  std::atomic<int> n_wrong{0};
  std::vector<std::thread> hosts;
  for (int host = 0; host < 4; ++host)
    hosts.emplace_back([&, host] {
      for (int round = 0; round < 500; ++round) {
        std::atomic<int> next{0}, sum{0};
        bool was_thrown = false;
        try {
          run_parallel(1 + static_cast<unsigned>(round % 5), [&](unsigned) {
            for (int part = next++; part < 100; part = next++) {
              sum += part;
              if (host == 3 && part == 50) throw std::runtime_error("on purpose");
            }
          });
        } catch (const std::runtime_error&) {
          was_thrown = true;
        }
        n_wrong += was_thrown != (host == 3) || (host != 3 && sum != 4950);
      }
    });
  for (std::thread& host : hosts) host.join();
  return n_wrong == 0;
}

int main() {
  if (!check_pool() || !check_interruption() || !check_damage() || !check_long_steps()) {
    std::printf("wrong: threads, damage or long steps\n");
    return 1;
  }
  for (size_t n_bits : {1, 7, 32, 36, 64, 65, 128, 4096})
    for (size_t n_queries : {0, 1, 9, 300})
      for (unsigned threads : {1u, 4u}) {
        if (n_bits * n_queries > 64 * 300) continue;
        if (!check_rerank(n_bits, n_queries, threads)) {
          std::printf("re-ranking: wrong at n_bits %zu, n_queries %zu, threads %u\n", n_bits, n_queries, threads);
          return 1;
        }
      }
  for (const Kernel* kernel : kKernels)
    for (size_t n_bits : {1, 16, 33, 64, 100, 128, 170, 256, 300, 512, 1024, 2300, 8064, 8065})
      for (size_t n_rows : {0, 1, 7, 8, 17, 33, 64, 65, 129, 600, 4097, 60001})
        for (size_t n_queries : {3, 8, 35})  // a kernel may lay the rows out in another way for many
          for (unsigned threads : {1u, 4u})
            for (bool masked : {false, true}) {
              if (n_rows * n_bits > 64 * 60001 || (threads > 1 && n_rows < 4095)) continue;
              if (n_queries > 3 && n_rows * n_bits > 4097 * 200) continue;  // to save time
              if (!check(*kernel, n_bits, n_rows, n_queries, threads, masked)) {
                std::printf("%s: wrong at n_bits %zu, n_rows %zu, n_queries %zu, threads %u, masked %d\n", kernel->name,
                            n_bits, n_rows, n_queries, threads, masked);
                return 1;
              }
            }
  return 0;
}
