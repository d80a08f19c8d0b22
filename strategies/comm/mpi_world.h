#pragma once
// The world of processes that mpirun or srun started, over MPI.

#include <memory>
#include <string>
#include <vector>

#include <trainer/world.h>

namespace trainer {

namespace mpi {

/// Starts MPI, unless this program has, and lets the end of the program end it then. For the main
/// thread. Throws CommError.
void initialize();

/// Throws CommError that names `what` and what MPI says of it, where `code` is not MPI_SUCCESS.
void check(int code, const std::string& what);

/// Whether MPI was started, by this or by the host program.
bool is_initialized();
/// Whether MPI has ended already: what is left then is not given back.
bool is_finalized();

}  // namespace mpi

class MPIWorld : public World {
 public:
  /// Starts MPI where that was not done. Throws CommError.
  MPIWorld();
  ~MPIWorld() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  int node_rank() const override { return node_rank_; }
  int num_nodes() const override { return num_nodes_; }

  std::string broadcast(std::string text) override;
  std::vector<std::string> all_gather(std::string text) override;
  void barrier() override;
  void abort(int exit_code) override;

 private:
  struct Comm;
  std::unique_ptr<Comm> comm_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, node_rank_ = 0, num_nodes_ = 1;
};

}  // namespace trainer
