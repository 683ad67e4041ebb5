// The launches: pointers and sizes in, a stream to run in; they return at once and throw CudaFailure.
#pragma once

#include "finish.h"
#include "scan.h"
#include "sort.h"
#include "stage.h"
#include "stream.h"

namespace athsearch {
namespace cuda {

void launch_scan_popcount(const Scan& scan, Stream stream);
void launch_scan_b1(const Scan& scan, Stream stream);
void launch_scan_wgmma(const Scan& scan, Stream stream);
bool is_wgmma_built();  // for the current GPU
void launch_count(const Count& count, Stream stream);
void launch_sort(const Sort& sort, size_t n_queries, Stream stream);
void launch_arrange(const uint64_t* rows, uint64_t n_rows, unsigned n_words, uint64_t first_row, uint64_t* words,
                    Stream stream);
void launch_stage(const Stage& stage, size_t n_images, size_t n_shared_bytes, Stream stream);
void launch_finish(const Finish& finish, Stream stream);

}  // namespace cuda
}  // namespace athsearch
