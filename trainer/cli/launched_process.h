#pragma once
// A program that this one starts and stands by: it gets the signals that ask to stop, and nothing
// of it stays behind.

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

namespace trainer {

/// How a program ended.
struct ProcessEnd {
  int exit_code = 0;        ///< 128 + n for signal n.
  bool was_forced = false;  ///< It was told to end at once.
};

/// While it lives, SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 wait until run() or wait() take
/// them (what this process ignores stays ignored), and what programs leave behind become children
/// of this process. For the main thread of a process; one at a time.
class Supervision {
 public:
  /// `mark`: a NAME=value that stands in the environment of what run() starts, and of no other
  /// process.
  explicit Supervision(std::string mark);
  Supervision(const Supervision&) = delete;
  Supervision& operator=(const Supervision&) = delete;
  ~Supervision();

  enum class Output { kShown, kDropped };
  /// Runs a program to its end and kills whatever it leaves behind. It has a process group of its
  /// own, no standard input, and gets SIGTERM when this process is killed. The first signal that
  /// asks to stop becomes SIGUSR1, which mpirun passes on to its ranks at once, and they save; a
  /// later SIGINT or SIGTERM, and the end of `limit`, become SIGTERM. Ten seconds after that, or at
  /// one more, it gets SIGKILL. Throws IoError where no process can be started.
  ProcessEnd run(const std::vector<std::string>& command, Output output = Output::kShown,
                 std::optional<std::chrono::seconds> limit = std::nullopt);

  /// Waits so long, or until a signal asks to stop.
  void wait(std::chrono::seconds duration);

  /// The first signal that asked to stop, or 0.
  int stop_signal() const { return stop_signal_; }

 private:
  /// Takes one signal, or 0 at the deadline.
  int take_signal(std::optional<std::chrono::steady_clock::time_point> deadline) const;
  /// Ends what programs have left behind. This process may have other children: those that it had
  /// before, and, as the first process of a container, whatever has lost its parent there.
  void kill_leftovers() const;

  const std::string mark_;
  const std::vector<pid_t> earlier_children_;
  sigset_t signals_{}, previous_{};
  struct sigaction previous_child_action_ {};
  int stop_signal_ = 0;
};

}  // namespace trainer
