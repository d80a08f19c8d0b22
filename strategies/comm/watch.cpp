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
#include <exception>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <strategies/comm/end_process.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/log.h>

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

void end_process(const WatchOptions& options, const Failure& failure) {
  if (failure.exit_code == 0) {
    deliver_last_words();
    end_without_mpi(static_cast<int>(ExitCode::kTryAgain));
  }
  options.abort(failure.exit_code);
}

Watch::Watch(const WatchOptions& options)
    : options_(options), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Watch::Watch(const WatchOptions& options, LineListener listener) : Watch(options) {
  start(first_rank_role(options_, std::move(listener)));
}

Watch::Watch(const WatchOptions& options, const std::string& address_of_rank_0) : Watch(options) {
  const nlohmann::json introduction = {{"rank", options_.rank}, {"host", options_.host}};
  start(other_rank_role(options_, connect_line(address_of_rank_0, introduction.dump())));
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
      end_without_mpi(static_cast<int>(ExitCode::kTryAgain));  // nobody is there to be told
    }
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t size = ::read(wake_.get(), &count, sizeof(count));
    is_last = stops_;  // before the messages: what was posted first goes out
    std::vector<std::string> posted;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      posted.swap(posted_);
    }
    try {
      for (const auto& message : posted) {
        role_->take(nlohmann::json::parse(message));
      }
      role_->take_turn(std::chrono::steady_clock::now());
    } catch (const std::exception& error) {  // what another rank sends is not what we know
      log::warning(fmt::format("nobody watches over the ranks any more: {}", error.what()));
      return;
    }
  }
}

}  // namespace trainer
