#pragma once
// The hosts of a job: as they are given, and which of them answer.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <trainer/cli/launched_process.h>
#include <trainer/core/filesystem.h>
#include <trainer/job.h>

namespace trainer {

/// Those of `a,b:4` and of a hostfile of Open MPI (`name slots=4` in each line, # begins a
/// comment). Those without a number share `num_ranks` evenly, or get one each where that is not
/// given. Throws ConfigError, and read_hostfile() DataError where the file cannot be read.
std::vector<Host> parse_hosts(const std::string& list, std::optional<int64_t> num_ranks);
std::vector<Host> read_hostfile(const fs::Path& path, std::optional<int64_t> num_ranks);

int64_t slots_of(const std::vector<Host>& hosts);

/// Those on which mpirun can start a process; it is tried on one after the other, until a signal
/// asks to stop.
std::vector<Host> hosts_that_answer(Supervision& supervision, const std::vector<Host>& hosts);

}  // namespace trainer
