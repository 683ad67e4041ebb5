// Levels, fastest first. A new one adds its declaration and its line here.
#include "levels.h"

#include <stdexcept>

#include "../cpu.h"

namespace athsearch {

#if defined(__x86_64__)
extern const Operations operations_avx512;
extern const Operations operations_avx2;
#endif
extern const Operations operations_baseline;

static const Operations* const kLevels[] = {
#if defined(__x86_64__)
    &operations_avx512,
    &operations_avx2,
#endif
    &operations_baseline,
};

std::vector<const Operations*> available_levels() {
  const uint32_t features = cpu_features();
  std::vector<const Operations*> available;
  for (const Operations* level : kLevels)
    if ((level->features & ~features) == 0) available.push_back(level);
  return available;
}

const Operations& select_level(const std::string& name) {
  const std::vector<const Operations*> available = available_levels();
  if (name.empty()) return *available.front();
  std::string names;
  for (const Operations* level : available) {
    if (name == level->name) return *level;
    names += std::string(names.empty() ? "" : ", ") + level->name;
  }
  throw std::invalid_argument("level '" + name + "' is unknown or cannot run on this CPU; available: " + names);
}

}  // namespace athsearch
