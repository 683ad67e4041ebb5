// The GPU's operations of networks in ordinary memory: the phases of the kernels' own headers, with blocks, warps and
// threads in a shuffled order. Shared memory is filled with NaN first. What this cannot show is a missing barrier.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "../../cuda/attention.h"
#include "../../cuda/hash_pack.h"

namespace athsearch {
namespace cuda {

using namespace attention;
using namespace hash;

class EmulatedOps {
 public:
  explicit EmulatedOps(uint64_t seed) : random_(seed) {}

  void attention(const AttentionForward& call) {
    with_type(call.dtype, [&](auto type) { forward<decltype(type)>(call); });
  }
  void attention_backward(const AttentionBackward& call) {
    with_type(call.dtype, [&](auto type) { backward<decltype(type)>(call); });
  }
  void hash_pack(const HashPack& call) {
    with_type(call.dtype, [&](auto type) {
      if (are_many(call))
        hash<decltype(type), kImagesAWarp>(call);
      else
        hash<decltype(type), 1>(call);
    });
  }

 private:
  template <class T>
  void forward(const AttentionForward& call) {
    if (is_wide<T>(call.shape, call.x, call.y))
      forward_blocks<T, kWide<T>>(call);
    else
      forward_blocks<T, 1>(call);
  }
  template <class T, unsigned kValues>
  void forward_blocks(const AttentionForward& of) {
    const Forward<T> call(of, kValues);
    const unsigned n_blocks = n_attention_blocks(call.shape);
    for (const unsigned block : order(n_blocks)) {
      const auto shared = rubbish<ForwardShared<Sum<T>>>();
      each_thread([&](unsigned thread) { load_weights<T>(thread, call.weight, shared->weight); });
      for (unsigned number = block; number < call.tiling.n_tiles; number += n_blocks) {
        const Tile tile = tile_of(call.tiling, number);
        each_warp_item(call.tiling.n_halo_pixels() << call.log_parts, [&](unsigned first) {
          Statistics<Sum<T>> found[32];
          for (unsigned lane = 0; lane < 32; ++lane)
            found[lane] = read_statistics<T, kValues>(call, tile, first + lane);
          for (unsigned distance = 1u << call.log_parts >> 1; distance > 0; distance /= 2)
            for (unsigned lane = 0; lane < 32; ++lane)
              found[lane] = joined(found[lane], found[lane + distance < 32 ? lane + distance : lane]);
          for (unsigned lane = 0; lane < 32; ++lane) store_statistics(call, tile, first + lane, found[lane], *shared);
        });
        each_thread([&](unsigned thread) { gate_pixels(thread, call, tile, *shared); });
        each_thread([&](unsigned thread) { apply_gates<T, kValues>(thread, call, tile, *shared); });
      }
    }
  }

  template <class T>
  void backward(const AttentionBackward& call) {
    if (is_wide<T>(call.shape, call.x, call.grad_y, call.grad_x))
      backward_blocks<T, kWide<T>>(call);
    else
      backward_blocks<T, 1>(call);
  }
  template <class T, unsigned kValues>
  void backward_blocks(const AttentionBackward& of) {
    using S = Sum<T>;
    const Backward<T> call(of, kValues);
    const unsigned n_blocks = n_attention_blocks(call.shape);
    for (const unsigned block : order(n_blocks)) {
      const auto shared = rubbish<BackwardShared<S>>();
      std::vector<TapSums<S>> sums(kAttentionThreads, TapSums<S>{});
      each_thread([&](unsigned thread) { load_weights<T>(thread, call.weight, shared->weight); });
      for (unsigned number = block; number < call.tiling.n_tiles; number += n_blocks) {
        const Tile tile = tile_of(call.tiling, number);
        each_warp_item(call.tiling.n_halo_pixels() << call.log_parts, [&](unsigned first) {
          S products[32];
          for (unsigned lane = 0; lane < 32; ++lane)
            products[lane] = read_product<T, kValues>(call, tile, first + lane);
          for (unsigned distance = 1u << call.log_parts >> 1; distance > 0; distance /= 2)
            for (unsigned lane = 0; lane < 32; ++lane)
              products[lane] += products[lane + distance < 32 ? lane + distance : lane];
          for (unsigned lane = 0; lane < 32; ++lane) store_grad_z(call, tile, first + lane, products[lane], *shared);
        });
        each_thread([&](unsigned thread) {
          filter_gradients(thread, call, tile, *shared);
          add_taps(thread, call, tile, *shared, sums[thread]);
        });
        each_thread([&](unsigned thread) { write_gradient<T, kValues>(thread, call, tile, *shared); });
      }
      each_thread([&](unsigned thread) { store_taps(thread, sums[thread], *shared); });
      each_thread([&](unsigned thread) { sum_taps(thread, block, *shared, call.partial_sums); });
    }
    S slices[kSumSlices][kWeights];
    std::memset(slices, 0xFF, sizeof slices);
    each_thread([&](unsigned thread) { sum_some_blocks(thread, call.partial_sums, n_blocks, slices); });
    each_thread([&](unsigned thread) { sum_slices(thread, slices, static_cast<S*>(of.grad_weight)); });
  }

  template <class T, unsigned kImages>
  void hash(const HashPack& call) {
    if constexpr (!std::is_same<T, double>::value) {
      for (const unsigned block : order(static_cast<unsigned>(n_hash_blocks(call, kImages)) * call.n_words())) {
        const unsigned word = block % call.n_words();
        const uint64_t first_image = uint64_t{block / call.n_words()} * images_a_block(kImages);
        const auto shared = rubbish<HashShared<kImages>>();
        std::vector<Logits<kImages>> logits(kHashThreads, Logits<kImages>{});
        for (unsigned first = 0; first < call.n_features; first += kDepth) {
          each_thread(
              [&](unsigned thread) { load_slice<T, kImages>(thread, call, first_image, word, first, *shared); });
          each_thread([&](unsigned thread) { add_products(thread, *shared, logits[thread]); });
        }
        for (const unsigned warp : order(kHashWarps))
          for (unsigned image = 0; image < kImages; ++image) {
            uint32_t halves[2] = {0, 0};
            for (unsigned lane = 0; lane < 32; ++lane)
              for (const unsigned half : {0u, 1u})
                halves[half] |= uint32_t{is_set(call, word, lane, half, logits[32 * warp + lane].at[image][half])}
                                << lane;
            for (unsigned lane = 0; lane < 32; ++lane)
              write_word<kImages>(call, first_image, word, 32 * warp + lane, image, halves[0], halves[1]);
          }
      }
    }
  }

  template <class Shared>
  static std::unique_ptr<Shared> rubbish() {
    std::unique_ptr<Shared> shared(new Shared);
    std::memset(static_cast<void*>(shared.get()), 0xFF, sizeof(Shared));
    return shared;
  }

  std::vector<unsigned> order(unsigned n) {
    std::vector<unsigned> numbers(n);
    std::iota(numbers.begin(), numbers.end(), 0u);
    std::shuffle(numbers.begin(), numbers.end(), random_);
    return numbers;
  }
  static_assert(kHashThreads == kAttentionThreads, "each_thread serves both");
  template <class Run>
  void each_thread(Run run) {
    for (const unsigned thread : order(kAttentionThreads)) run(thread);
  }
  // Items of whole warps: run(a warp's first item).
  template <class Run>
  void each_warp_item(unsigned n_items, Run run) {
    for (const unsigned warp : order(kAttentionThreads / 32))
      for (unsigned first = 32 * warp; first < n_items; first += kAttentionThreads) run(first);
  }

  std::mt19937_64 random_;
};

}  // namespace cuda
}  // namespace athsearch
