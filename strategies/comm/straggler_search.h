#pragma once
// Which rank makes the others wait, while all get on.

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <strategies/comm/hang_report.h>

namespace trainer {

/// Ranks of one step wait for the slowest one in their collectives, which itself hardly waits.
class StragglerSearch {
 public:
  using Clock = std::chrono::steady_clock;

  /// Looks at times of this length.
  explicit StragglerSearch(std::chrono::duration<double> window) : window_(window) {}

  /// To be called every now and then. Words about a rank for which the median of the others waited
  /// a fifth of the window that ends now; no more of the same one until another is found.
  std::optional<std::string> look(const std::vector<RankStatus>& ranks, Clock::time_point now);

 private:
  const std::chrono::duration<double> window_;
  std::optional<Clock::time_point> began_;
  std::vector<double> waited_before_;
  bool is_disturbed_ = false;  // somebody did what the others are meant to wait for
  std::optional<size_t> told_;
};

}  // namespace trainer
