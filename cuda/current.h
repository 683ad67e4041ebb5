// The calling thread's current GPU, another one for the time being.
#pragma once

namespace athsearch {
namespace cuda {

class Current {
 public:
  explicit Current(int number);  // throws CudaFailure
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int before_ = 0;
};

}  // namespace cuda
}  // namespace athsearch
