// What a thread of hash_pack does, phase by phase: the signs of features x weights^T + bias as packed codes.
//
// A block makes one word of a number of images. Features and weights pass through shared memory in slices of kDepth. A
// warp has some of the images, a lane the bits `lane` and `lane + 32` of each; two ballots of the warp are a word.
// A logit is the sum over features in ascending order, in float, whatever the number of images.
#pragma once

#include "floats.h"

namespace athsearch {
namespace cuda {
namespace hash {

constexpr unsigned kHashThreads = 256;
constexpr unsigned kHashWarps = kHashThreads / 32;
constexpr unsigned kDepth = 32;              // features of a slice
constexpr unsigned kAtOnce = 4;              // features that are read from shared memory at once
constexpr unsigned kRowLength = kDepth + 4;  // of a bit's weights: 8 lanes then read from 32 different banks
constexpr unsigned kImagesAWarp = 8;         // where there are many images
constexpr uint64_t kManyHashBlocks = 128;    // with fewer blocks than this of many images each, one image a warp

// features [n_images, n_features] row-major, weights [n_bits, n_features], bias [n_bits], words [n_images, n_words].
struct HashPack {
  Dtype dtype;  // of the features, not double
  uint64_t n_images;
  unsigned n_features, n_bits;
  const void* features;
  const float *weights, *bias;
  uint64_t* words;

  ATH_BOTH unsigned n_words() const { return (n_bits + 63) / 64; }
};

ATH_BOTH constexpr unsigned images_a_block(unsigned images_a_warp) { return kHashWarps * images_a_warp; }
inline uint64_t n_hash_blocks(const HashPack& call, unsigned images_a_warp) {
  return (call.n_images + images_a_block(images_a_warp) - 1) / images_a_block(images_a_warp);
}
inline bool are_many(const HashPack& call) {
  return n_hash_blocks(call, kImagesAWarp) * call.n_words() >= kManyHashBlocks;
}

template <unsigned kImages>
struct HashShared {
  alignas(16) float features[images_a_block(kImages)][kDepth];
  alignas(16) float weights[64][kRowLength];
};

// A lane's logits, first without the bias.
template <unsigned kImages>
struct Logits {
  float at[kImages][2];
};

// Phase 1 of a slice: zeros stand for images, bits and features that are missing.
template <class T, unsigned kImages>
ATH_BOTH void load_slice(unsigned thread, const HashPack& call, uint64_t first_image, unsigned word, unsigned first,
                         HashShared<kImages>& shared) {
  const T* const features = static_cast<const T*>(call.features);
  for (unsigned i = thread; i < images_a_block(kImages) * kDepth; i += kHashThreads) {
    const uint64_t image = first_image + i / kDepth;
    const unsigned feature = first + i % kDepth;
    const bool is_there = image < call.n_images && feature < call.n_features;
    shared.features[i / kDepth][i % kDepth] = is_there ? widen(features[image * call.n_features + feature]) : 0;
  }
  for (unsigned i = thread; i < 64 * kDepth; i += kHashThreads) {
    const unsigned bit = word * 64 + i / kDepth, feature = first + i % kDepth;
    const bool is_there = bit < call.n_bits && feature < call.n_features;
    shared.weights[i / kDepth][i % kDepth] = is_there ? call.weights[uint64_t{bit} * call.n_features + feature] : 0;
  }
}

// Phase 2 of a slice: its products are added to a lane's logits.
template <unsigned kImages>
ATH_BOTH void add_products(unsigned thread, const HashShared<kImages>& shared, Logits<kImages>& logits) {
  using Four = Values<float, kAtOnce>;
  const unsigned warp = thread / 32, lane = thread % 32;
  ATH_UNROLL
  for (unsigned first = 0; first < kDepth; first += kAtOnce) {
    const Four low = *reinterpret_cast<const Four*>(&shared.weights[lane][first]);
    const Four high = *reinterpret_cast<const Four*>(&shared.weights[lane + 32][first]);
    ATH_UNROLL
    for (unsigned image = 0; image < kImages; ++image) {
      const Four features = *reinterpret_cast<const Four*>(&shared.features[warp * kImages + image][first]);
      ATH_UNROLL
      for (unsigned i = 0; i < kAtOnce; ++i) {
        logits.at[image][0] += features.at[i] * low.at[i];
        logits.at[image][1] += features.at[i] * high.at[i];
      }
    }
  }
}

// Phase 3: whether a bit is set, for the warp's ballot; NaN is not above 0. half: 0 for bit `lane` of the word, else 1.
ATH_BOTH bool is_set(const HashPack& call, unsigned word, unsigned lane, unsigned half, float logit) {
  const unsigned bit = word * 64 + half * 32 + lane;
  return bit < call.n_bits && logit + call.bias[bit] > 0;
}
// The lane with an image's number writes its word.
template <unsigned kImages>
ATH_BOTH void write_word(const HashPack& call, uint64_t first_image, unsigned word, unsigned thread, unsigned image,
                         uint32_t low, uint32_t high) {
  const uint64_t number = first_image + thread / 32 * kImages + image;
  if (thread % 32 == image && number < call.n_images)
    call.words[number * call.n_words() + word] = low | uint64_t{high} << 32;
}

}  // namespace hash
}  // namespace cuda
}  // namespace athsearch
