#pragma once
// Starts this program as several processes under Open MPI's mpirun: in place of this process, on
// this computer, or for `trainer launch`.

#include <cstdint>
#include <string>
#include <vector>

#include <trainer/job.h>

namespace trainer {

/// Set to 1 in processes that were started by what is below: they share the cores among
/// themselves, since mpirun looks at no affinity mask and not at other jobs.
inline constexpr const char* kLaunchedVariable = "TRAINER_LAUNCHED";
/// Names another mpirun than that of the MPI this was built with, or of PATH.
inline constexpr const char* kMpirunVariable = "TRAINER_MPIRUN";

/// The command line of mpirun for a job; that of a job without hosts runs on this computer alone,
/// whatever a scheduler has reserved besides. The loss of a host is noticed within seconds.
/// `more_than_cores`: there are fewer cores than ranks on this computer.
std::vector<std::string> mpirun_command(const std::string& mpirun, const Job& job,
                                        bool more_than_cores, const std::string& program);

/// For set_job_command(): mpirun's command line for `program`, this one where that is empty.
/// Prepares the environment of this process for it. Throws ConfigError where there is no mpirun.
std::vector<std::string> command_with_mpirun(const Job& job, const std::string& program);

/// Starts this program with its arguments so many times in place of this process; returns by
/// throwing ConfigError only.
void launch_with_mpirun(int64_t num_processes);

}  // namespace trainer
