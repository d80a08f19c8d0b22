#include <strategies/comm/cluster.h>

#include <cstdlib>

#include <strategies/comm/mpi_world.h>

namespace trainer {

std::unique_ptr<World> join_world() {
  const bool launched =
      std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
  if (launched || mpi::is_initialized()) {
    return std::make_unique<MPIWorld>();
  }
  return std::make_unique<World>();
}

}  // namespace trainer
