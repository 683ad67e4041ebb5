// Rows sorted into partitions by a key, their codes and numbers side by side: the first step of grouping and of
// ordering codes. The order within a partition is that of the rows, whatever the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pool.h"
#include "scanner.h"

namespace athsearch {

// Shares tasks 0 to n_tasks - 1 out to threads; throws Interrupted.
template <class Run>
void for_each_task(size_t n_tasks, unsigned threads, bool (*is_interrupted)(), Run run) {
  std::atomic<size_t> next{0};
  std::atomic<bool> is_stopped{false};
  const auto n_threads = static_cast<unsigned>(std::min<size_t>(std::max(threads, 1u), std::max<size_t>(n_tasks, 1)));
  run_parallel(n_threads, [&](unsigned thread) {
    for (size_t task = next++; task < n_tasks && !is_stopped; task = next++) {
      run(task);
      if (thread != 0 || is_interrupted == nullptr || !is_interrupted()) continue;
      is_stopped = true;
      throw Interrupted();
    }
  });
}

inline void copy_code(const uint64_t* from, size_t n_words, uint64_t* to) {
  if (n_words == 1)
    *to = *from;  // no call of memmove for eight bytes
  else
    std::copy(from, from + n_words, to);
}

// Writes the codes to words [n_rows, n_words] and their rows to rows [n_rows], partition after partition, and returns
// where each begins [n_partitions + 1]. partition_of(code) is below n_partitions. Throws Interrupted, and
// std::invalid_argument where the codes were changed meanwhile so that they fall into other partitions.
template <class PartitionOf>
std::vector<uint64_t> partition(const Database& database, size_t n_partitions, PartitionOf partition_of,
                                uint64_t* words, uint32_t* rows, unsigned threads, bool (*is_interrupted)()) {
  struct Task {
    const uint64_t* words;
    uint64_t n_rows;
    uint64_t first_row;
  };
  constexpr uint64_t kRowsPerTask = 1u << 18;
  const size_t n_words = database.n_words();
  std::vector<Task> tasks;
  uint64_t first_row = 0;
  for (const Segment& segment : database.segments) {
    for (uint64_t begin = 0; begin < segment.n_rows; begin += kRowsPerTask)
      tasks.push_back(
          {segment.words + begin * n_words, std::min(kRowsPerTask, segment.n_rows - begin), first_row + begin});
    first_row += segment.n_rows;
  }

  // How many rows of each task fall into each partition, then where they begin.
  std::vector<uint64_t> places(tasks.size() * n_partitions);
  for_each_task(tasks.size(), threads, is_interrupted, [&](size_t task) {
    uint64_t* counts = places.data() + task * n_partitions;
    for (uint64_t row = 0; row < tasks[task].n_rows; ++row) ++counts[partition_of(tasks[task].words + row * n_words)];
  });
  std::vector<uint64_t> begins;
  uint64_t place = 0;
  for (size_t number = 0; number < n_partitions; ++number) {
    begins.push_back(place);
    for (size_t task = 0; task < tasks.size(); ++task)
      place += std::exchange(places[task * n_partitions + number], place);
  }
  begins.push_back(place);
  const std::vector<uint64_t> firsts = places;
  const auto end_of = [&](size_t task, size_t number) {
    return task + 1 < tasks.size() ? firsts[(task + 1) * n_partitions + number] : begins[number + 1];
  };

  for_each_task(tasks.size(), threads, is_interrupted, [&](size_t task) {
    uint64_t* next = places.data() + task * n_partitions;
    for (uint64_t row = 0; row < tasks[task].n_rows; ++row) {
      const uint64_t* code = tasks[task].words + row * n_words;
      const size_t number = partition_of(code);
      const uint64_t to = next[number]++;
      if (to == end_of(task, number)) throw std::invalid_argument("the codes were changed while they were sorted");
      copy_code(code, n_words, words + to * n_words);
      rows[to] = static_cast<uint32_t>(tasks[task].first_row + row);
    }
  });
  return begins;
}

}  // namespace athsearch
