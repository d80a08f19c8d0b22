#include <trainer/signals.h>

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <string>

namespace trainer {
namespace {

std::atomic<int> first_signal = 0;
std::atomic<bool> interrupted = false;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may use these");

constexpr std::array<int, 7> kSignals = {SIGINT,  SIGTERM, SIGUSR1, SIGUSR2,
                                         SIGCONT, SIGHUP,  SIGPIPE};
std::array<struct sigaction, kSignals.size()> previous;
std::atomic<pid_t> mpirun = 0;  // the parent, where it is one
static_assert(std::atomic<pid_t>::is_always_lock_free, "a signal handler may use it");

/// Also on nodes where orted is. A shell sends SIGCONT for `fg`.
bool parent_is_mpirun() {
  std::ifstream file("/proc/" + std::to_string(::getppid()) + "/comm");
  std::string name;
  std::getline(file, name);
  return name == "mpirun" || name == "mpiexec" || name == "orterun" || name == "orted";
}

void on_signal(int signal, siginfo_t* info, void*) {
  if (signal == SIGCONT) {
    if (info->si_code != SI_USER || info->si_pid != mpirun) {
      return;
    }
    signal = SIGTERM;
  } else if (signal == SIGUSR2) {
    signal = SIGUSR1;
  }
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
  mpirun = parent_is_mpirun() ? ::getppid() : -1;
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (kSignals[i] == SIGPIPE) {
      action.sa_flags = SA_RESTART;
      action.sa_handler = SIG_IGN;
    }
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
