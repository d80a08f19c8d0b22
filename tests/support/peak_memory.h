#pragma once
// The most memory that this process held while an object lived.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include <tests/support/memory.h>

namespace trainer::test {

/// What was resident at the most, above what was at the beginning: as the kernel knows it.
class ResidentGrowth {
 public:
  ResidentGrowth() {
    std::ofstream("/proc/self/clear_refs") << "5";  // the high-water mark begins here
    before_ = resident_bytes();
  }
  int64_t bytes() const { return memory_bytes("status", {"VmHWM"}) - before_; }

 private:
  int64_t before_ = 0;
};

/// The peak of proportional_bytes(), looked at every millisecond.
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
