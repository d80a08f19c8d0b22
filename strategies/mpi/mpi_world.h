#pragma once
// The world of processes that mpirun or srun started, over MPI.

#include <string>
#include <vector>

#include <strategies/comm/cluster.h>
#include <trainer/world.h>

namespace trainer {

class MPIWorld : public World {
 public:
  /// Starts MPI where that was not done. Throws ConfigError where MPI knows of another number of
  /// processes than the environment, CommError. Collective: yes.
  explicit MPIWorld(const Launch& launch);
  ~MPIWorld() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  int node_rank() const override { return node_rank_; }
  int num_nodes() const override { return num_nodes_; }
  std::string launcher() const override { return launcher_; }
  std::string description() const override;

  std::string broadcast(std::string text) override;
  std::vector<std::string> all_gather(std::string text) override;
  void barrier() override;
  void abort(int exit_code) override;
  void mark_failed(const Failure& failure) override;
  void fail(const Failure& failure) override;

  /// Not for users: what has to be there until MPI ends.
  struct Comm;

 private:
  void find_nodes();
  /// Sets LibTorch's number of threads, and binds those that launch_with_mpirun() started.
  void share_cores();
  /// Has the ranks watched over (strategies/comm/watch.h). Collective: yes.
  void start_watch();

  Comm* comm_;
  std::string launcher_, threads_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, node_rank_ = 0, num_nodes_ = 1;
};

}  // namespace trainer
