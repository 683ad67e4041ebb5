// What a thread of the hash layer does: features of eight images and 32 bits a block, logits and packed codes out.
//
// The block's warps share a chunk of features out among themselves; a lane has one bit, and a sum for each image. Then
// a warp adds up the parts of one image, and its lanes' signs, gathered, are half a word of its code.
#pragma once

#include "portable.h"

namespace athsearch {
namespace cuda {

constexpr unsigned kFinishThreads = 256, kFinishWarps = kFinishThreads / 32;
constexpr unsigned kFinishImages = 8;      // of a block, as many as it has warps
constexpr unsigned kFinishFeatures = 256;  // of a chunk
static_assert(kFinishImages == kFinishWarps, "a warp adds up one image");

struct Finish {
  const float* plane;  // [n_images, n_pixels, n_filled], whose features are wanted
  unsigned n_pixels, n_filled;
  bool is_summary;       // means of the channels, then maxima; otherwise the pixels of one channel after the other
  unsigned n_features;   // of an image
  const float* weights;  // [n_features, 64 * n_words]
  const float* bias;     // [64 * n_words]
  unsigned n_bits, n_words;
  float* logits;    // [n_images, n_bits]
  uint32_t* codes;  // [n_images, 2 * n_words]: halves of words, the lower ones first
  unsigned n_images;
};

struct FinishShared {
  float features[kFinishFeatures][kFinishImages];
  float parts[kFinishWarps][kFinishImages][32];
};

// A mean is a sum of sums, so that it is exact enough for millions of pixels.
ATH_BOTH float feature_of(const Finish& finish, unsigned image, unsigned feature) {
  const float* plane = finish.plane + size_t{image} * finish.n_pixels * finish.n_filled;
  if (!finish.is_summary) return plane[size_t{feature % finish.n_pixels} * finish.n_filled + feature / finish.n_pixels];
  const float* values = plane + feature % finish.n_filled;
  if (feature >= finish.n_filled) {
    float maximum = values[0];
    for (unsigned pixel = 1; pixel < finish.n_pixels; ++pixel) {
      const float value = values[size_t{pixel} * finish.n_filled];
      maximum = value > maximum ? value : maximum;
    }
    return maximum;
  }
  float sum = 0;
  for (unsigned first = 0; first < finish.n_pixels; first += 256) {
    float of_some = 0;
    for (unsigned pixel = first; pixel < finish.n_pixels && pixel < first + 256; ++pixel)
      of_some += values[size_t{pixel} * finish.n_filled];
    sum += of_some;
  }
  return sum / static_cast<float>(finish.n_pixels);
}

// Phase 1: features from `first` on, of images from `first_image` on; zeros where there are no more.
ATH_BOTH void load_features(unsigned thread, const Finish& finish, unsigned first_image, unsigned first,
                            FinishShared& shared) {
  for (unsigned i = thread; i < kFinishFeatures * kFinishImages; i += kFinishThreads) {
    const unsigned feature = i % kFinishFeatures, image = i / kFinishFeatures;
    const bool is_there = first + feature < finish.n_features && first_image + image < finish.n_images;
    shared.features[feature][image] = is_there ? feature_of(finish, first_image + image, first + feature) : 0;
  }
}

// Phase 2: a warp's features of that chunk, for the lane's bit of the 32 from `first_bit` on.
ATH_BOTH void add_features(unsigned thread, const Finish& finish, unsigned first_bit, unsigned first,
                           const FinishShared& shared, float (&sums)[kFinishImages]) {
  constexpr unsigned kOfWarp = kFinishFeatures / kFinishWarps;
  const unsigned warp = thread / 32, bit = first_bit + thread % 32;
  float of_chunk[kFinishImages] = {};
  for (unsigned i = warp * kOfWarp; i < (warp + 1) * kOfWarp && first + i < finish.n_features; ++i) {
    const float weight = finish.weights[size_t{first + i} * 64 * finish.n_words + bit];
    ATH_UNROLL
    for (unsigned image = 0; image < kFinishImages; ++image) of_chunk[image] += weight * shared.features[i][image];
  }
  ATH_UNROLL
  for (unsigned image = 0; image < kFinishImages; ++image) sums[image] += of_chunk[image];
}

// Phase 3: each warp's part.
ATH_BOTH void leave_parts(unsigned thread, const float (&sums)[kFinishImages], FinishShared& shared) {
  ATH_UNROLL
  for (unsigned image = 0; image < kFinishImages; ++image) shared.parts[thread / 32][image][thread % 32] = sums[image];
}

// Phase 4: the logit of the warp's image and the lane's bit. Returns whether the bit is set.
ATH_BOTH bool finish_bit(unsigned thread, const Finish& finish, unsigned first_image, unsigned first_bit,
                         const FinishShared& shared) {
  const unsigned image = first_image + thread / 32, bit = first_bit + thread % 32;
  if (image >= finish.n_images || bit >= finish.n_bits) return false;
  float logit = finish.bias[bit];
  for (unsigned warp = 0; warp < kFinishWarps; ++warp) logit += shared.parts[warp][thread / 32][thread % 32];
  finish.logits[size_t{image} * finish.n_bits + bit] = logit;
  return logit > 0;
}

// And half a word of the warp's image: the signs of its lanes' logits.
ATH_BOTH void store_signs(unsigned warp, const Finish& finish, unsigned first_image, unsigned half, uint32_t signs) {
  if (first_image + warp < finish.n_images)
    finish.codes[size_t{first_image + warp} * 2 * finish.n_words + half] = signs;
}

}  // namespace cuda
}  // namespace athsearch
