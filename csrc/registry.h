// The kernels of this build, and the choice among them.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "scan.h"

namespace athsearch {

struct KernelUnavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The kernels that this machine can run, fastest first. Never empty: scalar runs everywhere.
std::vector<const Kernel*> available_kernels();

// The named kernel; with an empty name the one in the environment variable ATHSEARCH_KERNEL, else the fastest.
// Throws KernelUnavailable for a name that is unknown or that this machine cannot run.
const Kernel& select_kernel(const std::string& name);

}  // namespace athsearch
