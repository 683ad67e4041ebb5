// A GPU in ordinary memory: the phases of the kernels' own headers, with blocks, warps and threads in a shuffled order.
//
// Shared and device memory are allocations of the exact size, filled with rubbish, so that AddressSanitizer sees every
// step beyond them. Blocks run one after the other, and a phase's threads too: what this cannot show is a missing
// barrier.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "../../cuda/convolve_f16.h"
#include "../../cuda/device.h"
#include "emulated_fragments.h"
#include "emulated_mma.h"
#include "emulated_wgmma.h"

namespace athsearch {
namespace cuda {

class EmulatedDevice : public Device {
 public:
  // seed 0: everything in ascending order.
  EmulatedDevice(uint64_t seed, unsigned n_blocks, uint64_t n_bytes)
      : random_(seed), is_shuffled_(seed != 0), n_blocks_(n_blocks), n_free_(n_bytes) {}

  uint64_t n_scans = 0, n_b1_scans = 0, n_wgmma_scans = 0, n_counts = 0;
  LeastQueries least;
  size_t n_tile_bytes = 113 * 1024;  // as on an H100
  bool has_parts = false;            // of pictures, that different blocks streamed

  void* allocate(size_t n_bytes) override {
    if (n_bytes > n_free_) throw std::runtime_error("out of memory");
    n_free_ -= n_bytes;
    auto* memory = static_cast<uint8_t*>(::operator new(n_bytes + kHeader));
    std::memcpy(memory, &n_bytes, sizeof n_bytes);
    std::memset(memory + kHeader, 0xA5, n_bytes);
    return memory + kHeader;
  }
  void release(void* memory) noexcept override {
    if (memory == nullptr) return;
    uint8_t* begin = static_cast<uint8_t*>(memory) - kHeader;
    size_t n_bytes;
    std::memcpy(&n_bytes, begin, sizeof n_bytes);
    n_free_ += n_bytes;
    ::operator delete(begin);
  }
  uint64_t n_free_bytes() override { return n_free_; }
  void upload(void* to, const void* from, size_t n_bytes) override { std::memcpy(to, from, n_bytes); }
  void download(void* to, const void* from, size_t n_bytes) override { std::memcpy(to, from, n_bytes); }
  void zero(void* to, size_t n_bytes) override { std::memset(to, 0, n_bytes); }

  void arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words) override {
    for (uint64_t i = 0; i < n_rows * n_words; ++i) arrange_word(rows, i, n_words, first_row, words);
  }

  void count(const Count& count) override {
    ++n_counts;
    choose(count.codes.n_words, count.n_queries, [&](auto words, auto of_pass) {
      constexpr unsigned kWords = decltype(words)::value, kQueries = decltype(of_pass)::value;
      const uint64_t n = n_steps(count.codes.n_rows, rows_a_step(kWords, kQueries));
      const uint64_t n_x = std::min<uint64_t>((n + count.every - 1) / count.every, n_blocks_);
      each_block(n_x, count.n_queries, kQueries, [&](uint64_t x, unsigned first, unsigned n_there) {
        const Bytes bytes = shared_bytes(count.codes.n_words, kQueries, count.n_bins);
        const Shared shared(bytes.get(), count.codes.n_words, kQueries);
        each_thread(kThreads, [&](unsigned thread) {
          load_pass(thread, count.queries, count.firsts, count.n_queries, count.codes.n_words, first, kQueries,
                    count.n_bins, shared);
        });
        each_thread(kThreads, [&](unsigned thread) {
          for (uint64_t step = x * count.every; step < n; step += n_x * count.every)
            count_rows<kWords, kQueries>(count, shared, n_there, step, thread);
        });
        each_thread(kThreads, [&](unsigned thread) {
          flush_counters(thread, shared, n_there, count.n_bins, count.bins + uint64_t{first} * count.n_bins);
        });
      });
    });
  }

  LeastQueries least_queries() override { return least; }

  void scan(const Scan& scan) override {
    ++n_scans;
    if (scan.kernel == ScanKernel::kPopcount) return scan_popcount(scan);
    if (scan.kernel == ScanKernel::kWgmma) return ++n_wgmma_scans, scan_wgmma(scan);
    ++n_b1_scans;
    scan.n_queries <= kMmaQueries ? scan_b1<1, 8>(scan) : scan_b1<4, 4>(scan);
  }

  void scan_popcount(const Scan& scan) {
    choose(scan.codes.n_words, scan.n_queries, [&](auto words, auto of_pass) {
      constexpr unsigned kWords = decltype(words)::value, kQueries = decltype(of_pass)::value;
      const uint64_t n = n_steps(scan.codes.n_rows, rows_a_step(kWords, kQueries)),
                     n_x = std::min<uint64_t>(n, n_blocks_);
      each_block(n_x, scan.n_queries, kQueries, [&](uint64_t x, unsigned first, unsigned n_there) {
        const Bytes bytes = shared_bytes(scan.codes.n_words, kQueries, scan.n_distances);
        const Shared shared(bytes.get(), scan.codes.n_words, kQueries);
        each_thread(kThreads, [&](unsigned thread) {
          load_pass(thread, scan.queries, scan.limits, scan.n_queries, scan.codes.n_words, first, kQueries,
                    scan.n_distances, shared);
        });
        for (const unsigned warp : order(kThreads / 32))
          for (uint64_t step = x; step < n; step += n_x) {
            uint64_t near[32];
            for (unsigned lane = 0; lane < 32; ++lane)
              near[lane] = near_rows<kWords, kQueries>(scan, shared, n_there, step, 32 * warp + lane);
            append_warp(
                scan, first, near,
                [&](unsigned lane, unsigned bit) {
                  return near_row<kWords, kQueries>(scan, shared, bit, step, 32 * warp + lane);
                },
                [&](unsigned counter, unsigned n_hits) { add_together(&shared.counters[counter], n_hits); });
          }
        each_thread(kThreads, [&](unsigned thread) {
          flush_counters(thread, shared, n_there, scan.n_distances,
                         scan.histogram + uint64_t{first} * scan.n_distances);
        });
      });
    });
  }

  template <unsigned kQueryTiles, unsigned kRowTiles>
  void scan_b1(const Scan& scan) {
    const unsigned n_k = n_k_steps(scan.codes.n_words);
    const uint64_t n = n_warp_steps<kRowTiles>(scan.codes.n_rows),
                   n_y = std::min<uint64_t>((n + kWarps - 1) / kWarps, n_blocks_);
    each_block(n_y, scan.n_queries, kMmaQueries * kQueryTiles, [&](uint64_t y, unsigned first, unsigned) {
      uint64_t* const counters = scan.histogram + uint64_t{first} * scan.n_distances;
      const auto queries = std::make_unique<QueryFragment[]>(n_k * kQueryTiles * 32);
      std::memset(static_cast<void*>(queries.get()), 0xA5, n_k * kQueryTiles * 32 * sizeof(QueryFragment));
      each_thread(kThreads, [&](unsigned thread) { load_queries<kQueryTiles>(thread, scan, first, queries.get()); });
      for (const unsigned warp : order(kWarps))
        for (uint64_t step = y * kWarps + warp; step < n; step += n_y * kWarps) {
          Sums sums[32][kQueryTiles][kRowTiles];
          for (unsigned lane = 0; lane < 32; ++lane)
            for (unsigned tile = 0; tile < kQueryTiles; ++tile)
              std::fill_n(sums[lane][tile], kRowTiles, first_sums(scan, first, tile, lane));
          for (unsigned k = 0; k < n_k; ++k) {
            uint64_t words[32][kRowTiles];
            for (unsigned lane = 0; lane < 32; ++lane) load_rows(scan.codes, step, k, lane, words[lane]);
            for (unsigned tile = 0; tile < kQueryTiles; ++tile)
              for (unsigned rows = 0; rows < kRowTiles; ++rows) {
                std::array<Sums*, 32> of_tile;
                std::array<QueryFragment, 32> a;
                std::array<RowFragment, 32> b;
                for (unsigned lane = 0; lane < 32; ++lane) {
                  of_tile[lane] = &sums[lane][tile][rows];
                  a[lane] = queries[(k * kQueryTiles + tile) * 32 + lane];
                  b[lane] = row_fragment(words[lane][rows], lane);
                }
                mma_b1_and_popc(of_tile, a, b);
              }
          }
          uint64_t near[32];
          for (unsigned lane = 0; lane < 32; ++lane) near[lane] = near_pairs(sums[lane]);
          append_warp(
              scan, first, near,
              [&](unsigned lane, unsigned bit) {
                return near_pair<kQueryTiles, kRowTiles>(scan, first, bit, step, lane);
              },
              [&](unsigned counter, unsigned n_hits) { add_together(&counters[counter], uint64_t{n_hits}); });
        }
    });
  }

  void scan_wgmma(const Scan& scan) {
    const Codes& codes = scan.codes;
    const unsigned n = n_planes(codes.n_words), n_of_pass = n_query_tiles(scan.n_queries, codes.n_words);
    const size_t n_bytes = sizeof(WgmmaShared) + wgmma_query_bytes(codes.n_words, n_of_pass);
    const auto n_y = static_cast<unsigned>(std::min<uint64_t>(n_row_tiles(codes.n_rows), n_blocks_));
    each_block(n_y, scan.n_queries, kWgmmaQueries * n_of_pass, [&](uint64_t y, unsigned first, unsigned) {
      uint64_t* const counters = scan.histogram + uint64_t{first} * scan.n_distances;
      const Bytes bytes = shared_bytes(n_bytes, 227 * 1024 / 2);
      auto& shared = *reinterpret_cast<WgmmaShared*>(bytes.get());
      auto* const queries = reinterpret_cast<Doubled*>(bytes.get() + sizeof(WgmmaShared));
      const SharedBytes seen{bytes.get(), n_bytes, 1024};
      const unsigned n_tiles = n_tiles_there(scan.n_queries, first, n_of_pass);
      const uint64_t of_queries = descriptor_of(seen.address_of(queries), kWgmmaQueries),
                     of_rows = descriptor_of(seen.address_of(shared.rows), kWgmmaRows);
      std::vector<RowPlace> next(kWgmmaThreads, RowPlace{y, 0});
      std::vector<RowWords> words(kWgmmaThreads);
      each_thread(kWgmmaThreads, [&](unsigned thread) {
        load_query_tiles(thread, scan, first, n_tiles, queries, shared);
        read_rows(codes, next[thread], thread, words[thread]);
      });
      const auto expand = [&] {
        each_thread(kWgmmaThreads, [&](unsigned thread) {
          expand_rows(codes, n_y, thread, next[thread], words[thread], shared);
          read_rows(codes, next[thread], thread, words[thread]);
        });
      };
      for (uint64_t row_tile = y; row_tile < n_row_tiles(codes.n_rows); row_tile += n_y) {
        expand();
        for (unsigned tile = 0; tile < n_tiles; ++tile) {
          std::vector<WgmmaSums> sums(kWgmmaThreads);
          for (unsigned plane = 0; plane < n; plane += 2) {
            if (plane > 0 && plane % kMostRowPlanes == 0) expand();
            wgmma_b1_and_popc(sums, of_queries + planes_on(tile * n + plane, kWgmmaQueries),
                              of_rows + planes_on(plane % kMostRowPlanes, kWgmmaRows), plane > 0, seen);
          }
          for (const unsigned warp : order(kWgmmaThreads / 32))
            for (unsigned half = 0; half < 2; ++half) {
              uint64_t near[32] = {};
              for (unsigned thread = 32 * warp; thread < 32 * warp + 32; ++thread) {
                const int32_t limit = shared.limits[tile][thread / 4][half];
                if (least_sum(sums[thread], half) <= limit) near[thread % 32] = near_sums(sums[thread], half, limit);
              }
              append_warp(
                  scan, first, near,
                  [&](unsigned lane, unsigned i) {
                    const unsigned thread = 32 * warp + lane;
                    return look_again(scan, first, tile * kWgmmaQueries + query_of_half(half, thread),
                                      row_tile * kWgmmaRows + row_of_sum(i, thread));
                  },
                  [&](unsigned counter, unsigned n_hits) { add_together(&counters[counter], uint64_t{n_hits}); });
            }
        }
      }
    });
  }

  void sort(const Sort& sort, size_t n_queries) override {
    for (const unsigned query : order(static_cast<unsigned>(n_queries))) {
      if (sort.n_kept[query] == 0) continue;
      const auto counters = std::make_unique<SortCounters>();
      Hit* from = sort.candidates + query * sort.capacity;
      Hit* to = sort.others + query * sort.capacity;
      for (unsigned pass = 0; pass < sort.passes.n_passes(); ++pass) {
        const Digit digit = sort.passes.digit(pass, sort.limits[query]);
        const uint64_t n = pass == 0 ? sort.n_candidates[query] : sort.n_kept[query];
        each_thread(kSortThreads, [&](unsigned thread) { count_digits(thread, from, n, digit, *counters); });
        each_thread(kSortThreads, [&](unsigned thread) { sum_counters(thread, *counters); });
        unsigned of_sums = 0;
        for (unsigned distance = 1; distance < kSortThreads; distance *= 2, of_sums = 1 - of_sums)
          each_thread(kSortThreads, [&](unsigned thread) { add_earlier(thread, distance, of_sums, *counters); });
        each_thread(kSortThreads, [&](unsigned thread) { spread_sums(thread, of_sums, *counters); });
        each_thread(kSortThreads, [&](unsigned thread) { scatter(thread, from, n, digit, *counters, to); });
        std::swap(from, to);
      }
      each_thread(kSortThreads, [&](unsigned thread) { copy_answer(thread, from, sort, query); });
    }
  }

  size_t n_shared_bytes_a_tile() override { return n_tile_bytes; }

  void run_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes) override {
    if (stage.dtype == Dtype::kFloat16)
      run_stage_of<Float16>(stage, n_images, n_shared_bytes);
    else
      run_stage_of<float>(stage, n_images, n_shared_bytes);
  }

  void finish(const Finish& finish) override {
    const unsigned n_halves = 2 * finish.n_words, n_groups = (finish.n_images + kFinishImages - 1) / kFinishImages;
    for (const unsigned block : order(n_halves * n_groups)) {
      const unsigned half = block % n_halves, first_bit = 32 * half, first_image = block / n_halves * kFinishImages;
      const auto shared = std::make_unique<FinishShared>();
      std::memset(static_cast<void*>(shared.get()), 0xFF, sizeof *shared);
      const auto sums = std::make_unique<float[][kFinishImages]>(kFinishThreads);
      for (unsigned first = 0; first < finish.n_features; first += kFinishFeatures) {
        each_thread(kFinishThreads,
                    [&](unsigned thread) { load_features(thread, finish, first_image, first, *shared); });
        each_thread(kFinishThreads,
                    [&](unsigned thread) { add_features(thread, finish, first_bit, first, *shared, sums[thread]); });
      }
      each_thread(kFinishThreads, [&](unsigned thread) { leave_parts(thread, sums[thread], *shared); });
      for (const unsigned warp : order(kFinishWarps)) {
        uint32_t signs = 0;
        for (const unsigned lane : order(32))
          signs |= uint32_t{finish_bit(32 * warp + lane, finish, first_image, first_bit, *shared)} << lane;
        store_signs(warp, finish, first_image, half, signs);
      }
    }
  }

  // What was asked for in other streams, done when it is waited for.
  std::function<void()> others_work = [] {};
  void follow(Stream) override { others_work(); }
  void wait() override {}

 private:
  static constexpr size_t kHeader = 16;  // keeps the memory aligned
  using Bytes = std::unique_ptr<uint8_t[]>;
  template <unsigned kValue>
  using Constant = std::integral_constant<unsigned, kValue>;

  template <class T>
  void run_stage_of(Stage stage, size_t n_images, size_t n_shared_bytes) {
    if (n_shared_bytes > n_tile_bytes) throw std::runtime_error("more shared memory than a block may have");
    stage.n_streamed = n_streamed_for(stage, n_images, is_shuffled_ ? random_() % 64 : 0);
    has_parts |= stage.n_lead > 0 && stage.n_streamed < stage.n_tiles_y;
    const unsigned n_blocks = n_blocks_of_image(stage);
    for (const unsigned block : order(static_cast<unsigned>(n_images) * n_blocks)) {
      const Bytes bytes(new uint8_t[n_shared_bytes]);
      std::memset(bytes.get(), 0xFF, n_shared_bytes);  // NaN
      T* const shared = reinterpret_cast<T*>(bytes.get());
      TileOfImage tile = first_tile<T>(stage, block / n_blocks, block % n_blocks);
      for (; tile.y < tile.end_y; ++tile.y)
        for (unsigned number = 0; number < stage.n_steps; ++number) {
          forget_unused(stage, number, shared);
          const StageStep& step = stage.steps[number];
          if constexpr (sizeof(T) == 2)
            if (is_of_warps<T>(step))
              for (const unsigned warp : order(kStageWarps))
                convolve(EmulatedWarp(order(32)), warp, stage, step, tile, shared);
          each_thread(kStageThreads, [&](unsigned thread) {
            if (!is_of_warps<T>(step)) run_step(thread, stage, step, tile, shared);
            if constexpr (kMayStream<T>) pass_rows_on(thread, stage, number, shared);
          });
        }
    }
  }

  // A tile that a step makes holds rubbish before: nothing of the tile before it is left there.
  template <class T>
  static void forget_unused(const Stage& stage, unsigned number, T* shared) {
    const StageStep& step = stage.steps[number];
    const TiledPlane& plane = stage.planes[step.out];
    if (plane.tile == kNowhere || (step.has_added && stage.planes[step.added].tile == plane.tile)) return;
    std::memset(static_cast<void*>(shared + plane.tile), 0xFF,
                static_cast<size_t>(plane.tile_height * plane.tile_width) * plane.pitch * sizeof(T));
  }

  // The same choice of kernel as the launches make.
  template <class Run>
  static void choose(unsigned n_words, unsigned n_queries, Run run) {
    if (is_batch(n_queries, n_words)) {
      choose_words<kQueriesAPass>(n_words, run);
    } else if (n_words > kMostUnrolledWords) {
      run(Constant<0>(), Constant<1>());
    } else {
      choose_words<1>(n_words, run);
    }
  }
  template <unsigned kQueries, class Run, unsigned kWords = 1>
  static void choose_words(unsigned n_words, Run run) {
    if (n_words == kWords)
      run(Constant<kWords>(), Constant<kQueries>());
    else if constexpr (kWords < kMostUnrolledWords)
      choose_words<kQueries, Run, kWords + 1>(n_words, run);
  }

  std::vector<unsigned> order(unsigned n) {
    std::vector<unsigned> numbers(n);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (is_shuffled_) std::shuffle(numbers.begin(), numbers.end(), random_);
    return numbers;
  }

  template <class Run>
  void each_thread(unsigned n, Run run) {
    for (const unsigned thread : order(n)) run(thread);
  }

  template <class Run>
  void each_block(uint64_t n_x, unsigned n_queries, unsigned n_of_pass, Run run) {
    const unsigned n_y = (n_queries + n_of_pass - 1) / n_of_pass;
    for (const unsigned block : order(static_cast<unsigned>(n_x) * n_y)) {
      const unsigned first = block / static_cast<unsigned>(n_x) * n_of_pass;
      run(block % n_x, first, std::min(n_queries - first, n_of_pass));
    }
  }

  // Lanes with something left go on together, all of them or, shuffled, as many as the scheduler likes.
  template <class Look, class CountHits>
  void append_warp(const Scan& scan, unsigned first_query, uint64_t (&near)[32], Look look, CountHits count_hits) {
    for (;;) {
      uint32_t active = 0, left = 0;
      for (unsigned lane = 0; lane < 32; ++lane)
        if (near[lane] != 0) {
          left |= 1u << lane;
          if (!is_shuffled_ || random_() % 2 == 0) active |= 1u << lane;
        }
      if (left == 0) return;
      Near found[32];
      uint32_t wanted = 0;
      for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(active >> lane & 1u)) continue;
        found[lane] = look(lane, lowest_set_bit(near[lane]));
        near[lane] &= near[lane] - 1;
        if (found[lane].is_wanted) wanted |= 1u << lane;
      }
      while (wanted != 0) {
        const unsigned leader = lowest_set_bit(wanted);
        uint32_t lanes = 0;
        for (unsigned lane = leader; lane < 32; ++lane)
          if ((wanted >> lane & 1u) && counter_of(scan, found[lane]) == counter_of(scan, found[leader]))
            lanes |= 1u << lane;
        count_hits(counter_of(scan, found[leader]), n_set_bits(lanes));
        const uint64_t place = reserve(scan, first_query, found[leader], n_set_bits(lanes));
        for (unsigned lane = leader; lane < 32; ++lane)
          if (lanes >> lane & 1u)
            append(scan, first_query + found[lane].query, place + rank_among(lanes, lane), found[lane].hit);
        wanted &= ~lanes;
      }
    }
  }

  static Bytes shared_bytes(unsigned n_words, unsigned n_of_pass, unsigned n_counters) {
    return shared_bytes(Shared::n_bytes(n_words, n_of_pass, n_counters), 48 * 1024);
  }
  static Bytes shared_bytes(size_t n_bytes, size_t most) {
    if (n_bytes > most) throw std::runtime_error("more shared memory than a block may have");
    Bytes bytes(new uint8_t[n_bytes]);
    std::memset(bytes.get(), 0xA5, n_bytes);
    return bytes;
  }

  std::mt19937_64 random_;
  bool is_shuffled_;
  unsigned n_blocks_;
  uint64_t n_free_;
};

}  // namespace cuda
}  // namespace athsearch
