#pragma once
// What the system says of this process's memory.

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace trainer::test {

/// The sum of these lines of /proc/self/`file`, in bytes.
inline int64_t memory_bytes(const std::string& file, const std::vector<std::string>& names) {
  std::ifstream lines("/proc/self/" + file);
  int64_t kb = 0;
  size_t num_found = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto colon = line.find(':');
    if (std::find(names.begin(), names.end(), line.substr(0, colon)) != names.end()) {
      kb += std::stoll(line.substr(colon + 1));
      ++num_found;
    }
  }
  if (num_found != names.size()) {
    throw std::runtime_error("/proc/self/" + file + " has no line " + names.front());
  }
  return kb * 1024;
}

/// All that is in memory.
inline int64_t resident_bytes() { return memory_bytes("status", {"VmRSS"}); }
/// What of it is shared, also in files without a name.
inline int64_t shared_bytes() { return memory_bytes("status", {"RssShmem"}); }
/// Without files; of memory that processes share, this one's part.
inline int64_t proportional_bytes() {
  return memory_bytes("smaps_rollup", {"Pss_Anon", "Pss_Shmem"});
}

}  // namespace trainer::test
