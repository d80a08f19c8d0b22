#pragma once
// When what has started this job will end it.

#include <chrono>
#include <optional>

namespace trainer {

/// SLURM tells it in SLURM_JOB_END_TIME, seconds of the Unix clock.
class JobDeadline {
 public:
  /// From now on. Throws ConfigError for a time that is no number.
  JobDeadline();

  /// The last minute before it has begun, of a job with little time the last tenth: time to save.
  bool is_near() const { return saves_at_ && std::chrono::system_clock::now() >= *saves_at_; }

 private:
  std::optional<std::chrono::system_clock::time_point> saves_at_;
};

}  // namespace trainer
