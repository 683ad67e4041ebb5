// What this machine allows at most: bytes read from memory and 64-bit popcounts a second. Prints JSON.
//
//     c++ -O3 -march=native -pthread limits.cpp -o limits && ./limits
//
// Reading: the sum of a 1 GiB array, by one thread and by all; popcounts: of registers, by one thread, with the widest
// instruction that the compiler's target has. Best of several runs: a limit is what nothing exceeds.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>
#if defined(__AVX512VPOPCNTDQ__) || defined(__AVX2__)
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

// Eight independent chains, so that latency does not count.
static double popcounts_per_s() {
  constexpr int kChains = 8;
  constexpr long kRounds = 20'000'000;
  double best = 0;
  for (int run = 0; run < 5; ++run) {
    const auto begin = std::chrono::steady_clock::now();
#if defined(__AVX512VPOPCNTDQ__)
    constexpr int kLanes = 8;
    __m512i value[kChains];
    for (int i = 0; i < kChains; ++i) value[i] = _mm512_set1_epi64(kept + i);
    for (long round = 0; round < kRounds; ++round)
      for (int i = 0; i < kChains; ++i) {
        value[i] = _mm512_popcnt_epi64(value[i]);
        asm volatile("" : "+v"(value[i]));
      }
    for (int i = 0; i < kChains; ++i) kept = static_cast<uint64_t>(_mm512_reduce_add_epi64(value[i]));
#else
    constexpr int kLanes = 1;
    uint64_t value[kChains];
    for (int i = 0; i < kChains; ++i) value[i] = kept + static_cast<uint64_t>(i);
    for (long round = 0; round < kRounds; ++round)
      for (int i = 0; i < kChains; ++i) {
        value[i] = static_cast<uint64_t>(__builtin_popcountll(value[i]));
        asm volatile("" : "+r"(value[i]));
      }
    for (int i = 0; i < kChains; ++i) kept = value[i];
#endif
    best = std::max(best, static_cast<double>(kRounds) * kChains * kLanes / seconds_since(begin));
  }
  return best;
}

int main() {
  const unsigned n_threads = std::max(1u, std::thread::hardware_concurrency());
  const std::vector<uint64_t> words(size_t{1} << 27, 1);
  std::printf("{\"read_bytes_per_s\": {\"1\": %.4g, \"%u\": %.4g}, \"popcounts_per_s\": %.4g}\n",
              read_bytes_per_s(words, 1), n_threads, read_bytes_per_s(words, n_threads), popcounts_per_s());
}
