// How many blocks a scan is launched with: as many as the GPU runs at once, each walking over the steps of the
// database.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "failure.h"
#include "scan.h"

namespace athsearch {
namespace cuda {

// One query takes all multiprocessors; passes of several queries follow each other in the grid's y.
template <class Kernel>
dim3 grid_of(Kernel kernel, uint64_t n_steps, unsigned n_passes, size_t shared_bytes, unsigned n_threads = kThreads) {
  int device = 0, n_processors = 0, blocks_a_processor = 0;
  ATH_CHECK(cudaGetDevice(&device));
  ATH_CHECK(cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device));
  ATH_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_a_processor, kernel, static_cast<int>(n_threads),
                                                          shared_bytes));
  const auto at_once = static_cast<uint64_t>(n_processors) * static_cast<uint64_t>(std::max(blocks_a_processor, 1));
  return dim3(static_cast<unsigned>(std::min(n_steps, at_once)), n_passes);
}

inline unsigned n_passes(unsigned n_queries, unsigned n_of_pass) { return (n_queries + n_of_pass - 1) / n_of_pass; }

}  // namespace cuda
}  // namespace athsearch
