#pragma once
// Patterns of dotted names, such as those of modules.

#include <fnmatch.h>

#include <string>

namespace trainer {

/// As a shell's: * stands for any text, dots included, ? for one character, [ab] for either. The
/// name has to match as a whole.
inline bool matches_glob(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace trainer
