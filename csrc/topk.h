// Keeps the k smallest of the hits it is offered.
#pragma once

#include <algorithm>
#include <vector>

#include "scan.h"

namespace athsearch {

class TopK {
 public:
  TopK(uint64_t k, uint64_t largest_distance) : k_(k), largest_distance_(largest_distance) {}

  // Whether a hit could still enter. Hits come with ascending rows, so one that only ties with the worst loses.
  bool is_open() const { return heap_.size() < k_ || hit_distance(heap_.front()) > 0; }

  // The largest distance at which a hit could still enter; ask only while is_open().
  uint64_t radius() const { return heap_.size() < k_ ? largest_distance_ : hit_distance(heap_.front()) - 1; }

  void offer(Hit hit) {
    if (heap_.size() < k_) {
      heap_.push_back(hit);
      std::push_heap(heap_.begin(), heap_.end());
    } else if (hit < heap_.front()) {
      std::pop_heap(heap_.begin(), heap_.end());
      heap_.back() = hit;
      std::push_heap(heap_.begin(), heap_.end());
    }
  }

  const std::vector<Hit>& hits() const { return heap_; }

 private:
  uint64_t k_;
  uint64_t largest_distance_;
  std::vector<Hit> heap_;
};

}  // namespace athsearch
