#pragma once
// The processes that train together, as far as the engine has to know of them: which one this is,
// and the few words they exchange beside tensors. Started alone, a process is a world of its own.
//
// Tensors travel through the Strategy. Who tells processes of each other (Open MPI under mpirun or
// srun) is known in strategies/comm alone.

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace trainer {

class World {
 public:
  virtual ~World() = default;

  virtual int rank() const { return 0; }
  virtual int size() const { return 1; }
  /// Among the processes of this node.
  virtual int local_rank() const { return 0; }
  virtual int local_size() const { return 1; }
  virtual int node_rank() const { return 0; }
  virtual int num_nodes() const { return 1; }
  bool is_global_zero() const { return rank() == 0; }

  /// The text of rank 0, on every rank. Collective: yes.
  virtual std::string broadcast(std::string text) { return text; }
  /// The texts of all ranks, in their order. Collective: yes.
  virtual std::vector<std::string> all_gather(std::string text) { return {std::move(text)}; }
  /// Returns when every rank has called it. Collective: yes.
  virtual void barrier() {}

  /// Ends this process and all others of the world at once, with this exit code; returns only where
  /// there are no others. For the end of a program, after its message is written.
  virtual void abort(int /*exit_code*/) {}
};

/// The world of this process; found out at the first call. Throws CommError where the environment
/// says that others were started along with this process and they cannot be reached.
World& world();

/// How world() finds out; called once, by register_builtins().
void set_world_factory(std::function<std::unique_ptr<World>()> factory);

}  // namespace trainer
