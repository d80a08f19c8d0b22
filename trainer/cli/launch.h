#pragma once
// `trainer launch`: starts the ranks of a job, stands by them, and starts them again where that may
// help. docs/launch.md is its manual.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <trainer/job.h>

namespace trainer {

struct LaunchOptions {
  std::string hostfile = "", hosts = "";  ///< Neither: this computer.
  std::optional<int64_t> num_ranks = std::nullopt;
  int64_t max_restarts = 0;
  std::optional<int64_t> min_ranks = std::nullopt;  ///< Otherwise all of them.
  int64_t host_wait_s = 60;
  std::vector<int> restart_on = {};  ///< Exit codes.
  std::string emit = "", image = "trainer", claim = "";
  int64_t num_nodes = 1;
  std::vector<std::string> program = {};  ///< What stands behind `--`.
};

/// The job that is asked for. Throws ConfigError and DataError.
Job job_of(const LaunchOptions& options);

/// Throws ConfigError where --min-ranks is more than this.
void check_min_ranks(const LaunchOptions& options, int64_t num_ranks);

}  // namespace trainer
