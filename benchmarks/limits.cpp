// What this machine allows at most: bytes read from memory and 64-bit popcounts a second. Prints JSON.
//
//     c++ -O3 -march=native -pthread limits.cpp -o limits && ./limits
//
// Reading: the sum of a 1 GiB array, by one thread and by all; popcounts: of registers, by one thread, with each
// instruction that the compiler's target has. Best of several runs: a limit is what nothing exceeds.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <utility>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

static double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

static volatile uint64_t kept;

static double read_bytes_per_s(const std::vector<uint64_t>& words, unsigned n_threads) {
  double best = 0;
  for (int run = 0; run < 7; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < n_threads; ++thread)
      threads.emplace_back([&, thread] {
        uint64_t sum = 0;
        const size_t from = words.size() * thread / n_threads, to = words.size() * (thread + 1) / n_threads;
        for (size_t i = from; i < to; ++i) sum += words[i];
        kept = sum;
      });
    for (std::thread& thread : threads) thread.join();
    best = std::max(best, 8.0 * static_cast<double>(words.size()) / seconds_since(begin));
  }
  return best;
}

// Makes the compiler believe that the value, in a register, may have changed.
template <class Value>
static void touch(Value& value) {
  if constexpr (sizeof(Value) == sizeof(uint64_t))
    asm volatile("" : "+r"(value));
  else
    asm volatile("" : "+x"(value));
}

// Times a second that `apply` runs on one thread, in eight independent chains, so that its latency does not count.
template <class Value, class Apply>
static double runs_per_s(Value start, Apply apply) {
  constexpr long kRounds = 20'000'000;
  double best = 0;
  Value a = start, b = start, c = start, d = start, e = start, f = start, g = start, h = start;
  for (int run = 0; run < 5; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    for (long round = 0; round < kRounds; ++round) {
      a = apply(a), b = apply(b), c = apply(c), d = apply(d), e = apply(e), f = apply(f), g = apply(g), h = apply(h);
      touch(a), touch(b), touch(c), touch(d), touch(e), touch(f), touch(g), touch(h);
    }
    best = std::max(best, 8.0 * kRounds / seconds_since(begin));
  }
  return best;
}

// 64-bit popcounts a second by each instruction that the compiler's target has. VPSHUFB looks up four bits of 32 bytes,
// so sixteen of them count the bits of 32 words.
static std::vector<std::pair<const char*, double>> popcounts_per_s() {
  std::vector<std::pair<const char*, double>> rates;
  rates.emplace_back("popcnt", runs_per_s(uint64_t{1}, [](uint64_t value) {
                       return static_cast<uint64_t>(__builtin_popcountll(value));
                     }));
#if defined(__AVX2__)
  rates.emplace_back(
      "vpshufb", 2 * runs_per_s(_mm256_set1_epi8(1), [](__m256i value) { return _mm256_shuffle_epi8(value, value); }));
#endif
#if defined(__AVX512VPOPCNTDQ__)
  rates.emplace_back("vpopcntq",
                     8 * runs_per_s(_mm512_set1_epi64(1), [](__m512i value) { return _mm512_popcnt_epi64(value); }));
#endif
  return rates;
}

int main() {
  const unsigned n_threads = std::max(1u, std::thread::hardware_concurrency());
  const std::vector<uint64_t> words(size_t{1} << 27, 1);
  std::printf("{\"read_bytes_per_s\": {\"1\": %.4g, \"%u\": %.4g}, \"popcounts_per_s\": {", read_bytes_per_s(words, 1),
              n_threads, read_bytes_per_s(words, n_threads));
  const char* separator = "";
  for (const auto& [instruction, rate] : popcounts_per_s()) {
    std::printf("%s\"%s\": %.4g", separator, instruction, rate);
    separator = ", ";
  }
  std::printf("}}\n");
}
