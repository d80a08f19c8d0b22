#pragma once
// The most memory that this process held while the object lived, looked at every millisecond.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

namespace trainer::test {

/// Without files; of memory that processes share, this one's part.
inline int64_t proportional_bytes() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  int64_t kb = 0;
  for (std::string line; std::getline(rollup, line);) {
    if (line.starts_with("Pss_Anon:") || line.starts_with("Pss_Shmem:")) {
      kb += std::stoll(line.substr(line.find(':') + 1));
    }
  }
  return kb * 1024;
}

class PeakMemory {
 public:
  PeakMemory() = default;
  PeakMemory(const PeakMemory&) = delete;
  PeakMemory& operator=(const PeakMemory&) = delete;
  ~PeakMemory() { bytes(); }

  /// Ends it.
  int64_t bytes() {
    is_over_ = true;
    if (thread_.joinable()) {
      thread_.join();
    }
    return peak_;
  }

 private:
  std::atomic<bool> is_over_ = false;
  int64_t peak_ = 0;
  std::thread thread_{[this] {
    while (!is_over_) {
      peak_ = std::max(peak_, proportional_bytes());
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }};
};

}  // namespace trainer::test
