// The calling thread's current GPU, changed for the time being.
#pragma once

#include <cuda_runtime_api.h>

#include "failure.h"

namespace athsearch {
namespace cuda {

class Current {
 public:
  explicit Current(int number) {
    ATH_CHECK(cudaGetDevice(&before_));
    ATH_CHECK(cudaSetDevice(number));
  }
  ~Current() { cudaSetDevice(before_); }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_ = 0;
};

}  // namespace cuda
}  // namespace athsearch
