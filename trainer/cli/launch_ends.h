#pragma once
// What the end of mpirun says of the job.

#include <filesystem>
#include <string>

#include <trainer/cli/launched_process.h>
#include <trainer/core/filesystem.h>

namespace trainer {

struct JobEnd {
  int exit_code = 0;       ///< That of `trainer launch`, where there is no other attempt.
  std::string cause = "";  ///< In words.
  bool may_pass = false;   ///< Another attempt may not meet it.
};

/// `stop_signal`: that which asked the job to stop, or 0. `has_hosts`: mpirun has started daemons
/// on other hosts, and where one fails it ends with whatever exit code ssh had.
JobEnd end_of_job(const ProcessEnd& mpirun, int stop_signal, bool has_hosts);

/// What a rank that has failed has written into its run folder, in the form of torchelastic's error
/// files: which rank, and its message. Empty where it has written none since then.
std::string error_of_rank(const fs::Path& run, std::filesystem::file_time_type since);

}  // namespace trainer
