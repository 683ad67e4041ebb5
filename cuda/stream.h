// A stream of the CUDA runtime, by name alone: no CUDA header here.
#pragma once

struct CUstream_st;

namespace athsearch {
namespace cuda {

using Stream = CUstream_st*;

}  // namespace cuda
}  // namespace athsearch
