#include <trainer/signals.h>

#include <signal.h>

#include <array>
#include <csignal>

namespace trainer {
namespace {

volatile std::sig_atomic_t received_signal = 0;

constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGUSR1};
std::array<struct sigaction, 3> previous;

void on_signal(int signal) {
  if (received_signal == SIGINT && signal == SIGINT) {
    ::signal(SIGINT, SIG_DFL);
    ::raise(SIGINT);
    return;
  }
  if (received_signal == 0) {
    received_signal = signal;
  }
}

}  // namespace

SignalScope::SignalScope() {
  received_signal = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &action, &previous[i]);
  }
}

SignalScope::~SignalScope() {
  for (size_t i = 0; i < kSignals.size(); ++i) {
    ::sigaction(kSignals[i], &previous[i], nullptr);
  }
}

int SignalScope::received() { return received_signal; }

}  // namespace trainer
