// The CPU levels of this build, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "operations.h"

namespace athsearch {

// The levels that this machine can run, fastest first. Never empty: the baseline runs everywhere.
std::vector<const Operations*> available_levels();

// The named level; with an empty name the fastest. Throws std::invalid_argument for one that is not available.
const Operations& select_level(const std::string& name);

}  // namespace athsearch
