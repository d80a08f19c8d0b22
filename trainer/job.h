#pragma once
// A training as `trainer launch` starts it: this program, as so many ranks, on these hosts.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <trainer/core/filesystem.h>

namespace trainer {

/// A computer that ranks run on, and how many.
struct Host {
  std::string name = "";
  int64_t slots = 1;
  bool operator==(const Host&) const = default;
};

struct Job {
  int64_t num_ranks = 1;
  std::vector<Host> hosts = {};  ///< None: this computer.
  std::vector<std::string> arguments = {};
};

/// Names a file into which rank 0 of a fit writes the path of its run folder, once it has one: what
/// started the ranks then finds their checkpoints.
inline constexpr const char* kRunFileVariable = "TRAINER_RUN_FILE";

/// Writes that file, where one is named. What keeps it from being written is a warning: training
/// goes on, and cannot be restarted from its checkpoints.
void tell_run_directory(const fs::Path& path);

/// The command that runs `program` as the ranks of a job, or this program where none is named; sets
/// what it needs in the environment of this process. Throws ConfigError where nothing is installed
/// that can.
std::vector<std::string> command_of(const Job& job, const std::string& program = "");

/// How command_of() works; called once, by register_builtins().
void set_job_command(
    std::function<std::vector<std::string>(const Job& job, const std::string& program)> command);

}  // namespace trainer
