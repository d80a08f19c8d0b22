#pragma once
// What started this process, and with which others: found in the environment that mpirun, srun and
// torchrun leave.

#include <map>
#include <memory>
#include <string>

#include <trainer/world.h>

namespace trainer {

using Environment = std::map<std::string, std::string>;

/// That of this process.
Environment this_environment();

/// What an environment says of the processes that were started together.
struct Launch {
  std::string launcher = "";  ///< Empty: this process was started alone.
  int rank = 0;
  int size = 1;          ///< 0: only MPI knows.
  std::string size_key;  ///< The variable that tells the size.
};

/// The first of these that is there: Open MPI's mpirun (OMPI_COMM_WORLD_*), PMIx or PMI (srun
/// --mpi=pmix, other launchers), SLURM's srun (SLURM_*), torchrun (RANK, WORLD_SIZE). Throws
/// ConfigError where they tell of other processes that cannot be reached from here.
Launch find_launch(const Environment& environment);

/// The world that the environment tells of: that of MPI under mpirun, under srun --mpi=pmix and in
/// a program that has called MPI_Init; a world of its own for a process that was started alone, as
/// a plain command in a SLURM batch script is. Shares the cores between the ranks of a node:
/// sets LibTorch's number of threads, unless OMP_NUM_THREADS is set. Throws ConfigError, CommError.
std::unique_ptr<World> join_world();

}  // namespace trainer
