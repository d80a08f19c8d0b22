#pragma once
// The processes that train together, as far as the engine has to know of them: which one this is,
// and the few words they exchange beside tensors. Started alone, a process is a world of its own.
//
// Tensors travel through the Strategy. Who tells processes of each other (Open MPI under mpirun or
// srun) is known in strategies/comm alone.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <trainer/core/failure.h>

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
  /// What started these processes: "mpirun", "srun", "host program"; empty for a process that was
  /// started alone.
  virtual std::string launcher() const { return ""; }
  /// For the log: "2 processes on 1 node (Open MPI, mpirun), 1 thread each".
  virtual std::string description() const { return "1 process"; }

  /// The text of rank 0, on every rank. Collective: yes.
  virtual std::string broadcast(std::string text) { return text; }
  /// The texts of all ranks, in their order. Collective: yes.
  virtual std::vector<std::string> all_gather(std::string text) { return {std::move(text)}; }
  /// Returns when every rank has called it. Collective: yes.
  virtual void barrier() {}

  /// Ends this process and all others of the world at once, with this exit code; returns only where
  /// there are no others. For the end of a program, after its message is written.
  virtual void abort(int /*exit_code*/) {}
  /// Remembers that this process has failed in what it did with the others, which may wait for it.
  /// Where they are still in the stage that it has failed in a second later, all are ended with the
  /// failure as the last words; and when it ends, it gives them a second to end too and then aborts
  /// with the exit code.
  virtual void mark_failed(const Failure& /*failure*/) {}
  /// Ends this process and all others of the world, with tell(): that of the first failure of any
  /// of them, and its exit code. Returns only where there are no others, and has told nothing then.
  virtual void fail(const Failure& /*failure*/) {}
};

/// The world of this process; found out at the first call, which is a collective one, and told to
/// the log. Throws ConfigError where the environment says that others were started along with this
/// process in a way in which they cannot be reached, and CommError.
World& world();

/// The same where it was found out already, else nullptr.
World* joined_world();

/// What has just happened to this process, with its rank, host and step.
Failure failure_here(std::string message, int exit_code);

/// Starts this program anew as so many processes on this computer, which find each other, in place
/// of this process; it does not return. Throws ConfigError where that is not possible.
[[noreturn]] void launch(int64_t num_processes);

/// How world() and launch() work; called once, by register_builtins().
void set_world_factory(std::function<std::unique_ptr<World>()> factory);
void set_launcher(std::function<void(int64_t num_processes)> launcher);

}  // namespace trainer
