#pragma once
// Watches over the processes that train together, beside what they do: each has a thread that tells
// rank 0 how it is, over a connection of its own. Where one of them fails, dies, stops or hangs,
// all end, with the first cause as the last words. See docs/reliability.md.

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include <strategies/comm/line_socket.h>
#include <trainer/core/failure.h>

namespace trainer {

/// Seconds without a sign of life after which a process counts as dead; 0 for never.
inline constexpr const char* kHeartbeatVariable = "TRAINER_HEARTBEAT_TIMEOUT_S";

struct WatchOptions {
  int rank = 0, size = 1;
  std::string host = {};
  std::chrono::duration<double> heartbeat_timeout = std::chrono::seconds(10);
  /// Ends all processes at once with this exit code; called by the watching thread.
  std::function<void(int exit_code)> abort = {};
  /// The process that has started this one, which ends when that does; 0: nobody in particular.
  pid_t launcher = 0;
};

class Watch {
 public:
  /// What a rank does in the watching thread: rank 0 decides, the others report.
  class Role {
   public:
    virtual ~Role() = default;
    virtual std::vector<int> descriptors() const = 0;
    /// Reads what has come, sends what is due.
    virtual void take_turn(std::chrono::steady_clock::time_point now) = 0;
    /// What this rank's training thread has to tell.
    virtual void take(const nlohmann::json& message) = 0;
  };

  /// Throws ConfigError for a TRAINER_HEARTBEAT_TIMEOUT_S that is no number.
  static std::chrono::duration<double> heartbeat_timeout();

  /// Of rank 0, to which the others connect.
  Watch(const WatchOptions& options, LineListener listener);
  /// Of another rank. Throws CommError where it cannot connect.
  Watch(const WatchOptions& options, const std::string& address_of_rank_0);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  /// Tells the others that this process ends as it should.
  ~Watch();

  /// This rank has failed. `is_final`: the process ends, and nothing can come of it any more.
  void report(const Failure& failure, bool is_final);
  /// From now on the end of this process is none to tell of.
  void leave();

 private:
  explicit Watch(const WatchOptions& options);
  void start(std::unique_ptr<Role> role);
  void post(const nlohmann::json& message);
  void wake();
  void run();
  bool is_orphan() const;

  const WatchOptions options_;
  std::unique_ptr<Role> role_;
  Descriptor wake_;
  std::atomic<bool> stops_ = false;
  std::mutex mutex_;
  std::vector<std::string> posted_;
  std::thread thread_;  // last: it uses all of them
};

/// How often each tells that it is there.
std::chrono::duration<double> heartbeat_interval(const WatchOptions& options);

/// Ends this process as `failure` says; where only the launcher knows the exit code, it ends the
/// job already, and this process without MPI.
void end_process(const WatchOptions& options, const Failure& failure);

std::unique_ptr<Watch::Role> first_rank_role(const WatchOptions& options, LineListener listener);
std::unique_ptr<Watch::Role> other_rank_role(const WatchOptions& options, LineSocket rank_0);

}  // namespace trainer
