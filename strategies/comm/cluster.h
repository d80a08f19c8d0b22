#pragma once
// What started this process, and with which others: found in the environment that mpirun, srun and
// torchrun leave.

#include <memory>

#include <trainer/world.h>

namespace trainer {

/// The world that the environment tells of: that of MPI under mpirun, under srun --mpi=pmix and in
/// a program that has called MPI_Init; a world of its own for a process that was started alone.
/// Throws CommError.
std::unique_ptr<World> join_world();

}  // namespace trainer
