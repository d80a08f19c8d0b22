#include <strategies/comm/watch.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <strategies/comm/orphan.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>

namespace trainer {

std::chrono::duration<double> Watch::heartbeat_timeout() {
  const char* text = std::getenv(kHeartbeatVariable);
  if (text == nullptr) {
    return WatchOptions().heartbeat_timeout;
  }
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (end == text || *end != '\0' || !std::isfinite(seconds) || seconds < 0) {
    throw ConfigError(
        fmt::format("environment: {}='{}' is no number of seconds. Write 10, say, or 0 for never.",
                    kHeartbeatVariable, text));
  }
  return std::chrono::duration<double>(seconds);
}

std::chrono::duration<double> heartbeat_interval(const WatchOptions& options) {
  const auto timeout = options.heartbeat_timeout.count();
  return std::chrono::duration<double>(timeout > 0 ? std::min(1.0, timeout / 5) : 1.0);
}

Watch::Watch(const WatchOptions& options)
    : options_(options), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Watch::Watch(const WatchOptions& options, LineListener listener) : Watch(options) {
  start(first_rank_role(options_, std::move(listener)));
}

Watch::Watch(const WatchOptions& options, LineSocket rank_0) : Watch(options) {
  start(other_rank_role(options_, std::move(rank_0)));
}

Watch::~Watch() {
  flight::set_stage_observer({});
  leave();
  stops_ = true;
  wake();
  thread_.join();
}

void Watch::start(std::unique_ptr<Role> role) {
  role_ = std::move(role);
  if (options_.launcher != 0) {
    // Also a process that was stopped is to notice that its launcher is gone.
    ::prctl(PR_SET_PDEATHSIG, SIGCONT);
  }
  // Signals are for the training thread.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  flight::set_stage_observer([this] { wake(); });
}

void Watch::report(const Failure& failure, bool is_final) {
  post({{"failed", failure}, {"stage_number", flight::status().stage_number}, {"final", is_final}});
}

void Watch::leave() { post({{"leave", true}}); }

void Watch::post(const nlohmann::json& message) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    posted_.push_back(message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  wake();
}

void Watch::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof(one));
}

bool Watch::is_orphan() const { return options_.launcher != 0 && ::getppid() != options_.launcher; }

void Watch::run() {
  const auto interval_ms = static_cast<int>(heartbeat_interval(options_).count() * 1000 / 2);
  for (bool is_last = false; !is_last;) {
    std::vector<pollfd> awaited = {{wake_.get(), POLLIN, 0}};
    for (const int fd : role_->descriptors()) {
      awaited.push_back({fd, POLLIN, 0});
    }
    ::poll(awaited.data(), awaited.size(), std::max(1, interval_ms));
    if (is_orphan()) {
      end_orphan();
    }
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t size = ::read(wake_.get(), &count, sizeof(count));
    is_last = stops_;  // before the messages: what was posted first goes out
    std::vector<std::string> posted;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      posted.swap(posted_);
    }
    for (const auto& message : posted) {
      role_->take(nlohmann::json::parse(message));
    }
    role_->take_turn(std::chrono::steady_clock::now());
  }
}

}  // namespace trainer
