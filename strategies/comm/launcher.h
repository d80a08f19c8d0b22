#pragma once
// Starts this program as several processes of this computer, under Open MPI's mpirun.

#include <cstdint>
#include <string>
#include <vector>

namespace trainer {

/// Set to 1 in processes that launch_with_mpirun() has started: they share the cores among
/// themselves, since mpirun looks at no affinity mask and not at other jobs.
inline constexpr const char* kLaunchedVariable = "TRAINER_LAUNCHED";
/// Names another mpirun than that of the MPI this was built with, or of PATH.
inline constexpr const char* kMpirunVariable = "TRAINER_MPIRUN";

/// What runs `program` as so many processes on this computer alone, whatever a scheduler has
/// reserved besides.
std::vector<std::string> mpirun_command(const std::string& mpirun, int64_t num_processes,
                                        bool more_than_cores, const std::string& program,
                                        const std::vector<std::string>& arguments);

/// Starts this program with its arguments so many times in place of this process; returns by
/// throwing ConfigError only.
void launch_with_mpirun(int64_t num_processes);

}  // namespace trainer
