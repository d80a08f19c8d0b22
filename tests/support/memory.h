#pragma once
// What the system says of this process's memory.

#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace trainer::test {

/// A line of /proc/self/status in bytes: "VmRSS" all that is resident, "RssShmem" what of it is
/// shared, also in files without a name.
inline int64_t memory_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) {
      return std::stoll(line.substr(name.size() + 1)) * 1024;
    }
  }
  ADD_FAILURE() << "no " << name << " in /proc/self/status";
  return 0;
}

}  // namespace trainer::test
