#include <trainer/signals.h>

#include <signal.h>

#include <array>
#include <atomic>

namespace trainer {
namespace {

std::atomic<int> first_signal = 0;
std::atomic<bool> interrupted = false;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may use these");

constexpr std::array<int, 5> kSignals = {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGPIPE};
std::array<struct sigaction, kSignals.size()> previous;

void on_signal(int signal) {
  if (signal == SIGINT && interrupted.exchange(true)) {
    ::signal(SIGINT, SIG_DFL);
    ::raise(SIGINT);
    return;
  }
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
}

}  // namespace

SignalScope::SignalScope() {
  first_signal = 0;
  interrupted = false;
  struct sigaction action {};
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    action.sa_handler = kSignals[i] == SIGPIPE ? SIG_IGN : on_signal;
    ::sigaction(kSignals[i], &action, &previous[i]);
  }
}

SignalScope::~SignalScope() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous[i], nullptr);
  }
}

int SignalScope::received() { return first_signal; }

}  // namespace trainer
