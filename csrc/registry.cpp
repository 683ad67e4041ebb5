// Kernels, fastest first. A new one adds its declaration and its line here.
#include "registry.h"

#include <cstdlib>

#include "cpu.h"

namespace athsearch {

#if defined(__x86_64__)
extern const Kernel kernel_avx512_vpopcntdq;
extern const Kernel kernel_avx2;
#elif defined(__aarch64__)
extern const Kernel kernel_neon;
#endif
extern const Kernel kernel_scalar;

static const Kernel* const kKernels[] = {
#if defined(__x86_64__)
    &kernel_avx512_vpopcntdq,
    &kernel_avx2,
#elif defined(__aarch64__)
    &kernel_neon,
#endif
    &kernel_scalar,
};

std::vector<const Kernel*> available_kernels() {
  const uint32_t features = cpu_features();
  std::vector<const Kernel*> available;
  for (const Kernel* kernel : kKernels)
    if ((kernel->features & ~features) == 0) available.push_back(kernel);
  return available;
}

const Kernel& select_kernel(const std::string& name) {
  std::string wanted = name;
  if (wanted.empty())
    if (const char* forced = std::getenv("ATHSEARCH_KERNEL")) wanted = forced;
  const std::vector<const Kernel*> available = available_kernels();
  if (wanted.empty()) return *available.front();
  std::string names;
  for (const Kernel* kernel : available) {
    if (wanted == kernel->name) return *kernel;
    names += std::string(names.empty() ? "" : ", ") + kernel->name;
  }
  throw KernelUnavailable("kernel '" + wanted + "' is unknown or cannot run on this CPU; available: " + names);
}

}  // namespace athsearch
