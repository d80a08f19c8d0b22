#include <trainer/cli/launched_process.h>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

using std::chrono::steady_clock;

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
constexpr int kNoProgram = 127;                       // as shells have it
constexpr auto kEndLimit = std::chrono::seconds(10);  // from SIGTERM to SIGKILL

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// In the new process; calls nothing but what is allowed between fork and exec.
[[noreturn]] void become(char* const* words, pid_t parent, const sigset_t& signals, bool is_shown) {
  ::setpgid(0, 0);  // Ctrl-C is for the parent, which passes it on as mpirun would not
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) {
    ::_exit(kNoProgram);  // it was killed before that
  }
  ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
  if (!is_shown) {
    const int nowhere = ::open("/dev/null", O_WRONLY);
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(nowhere, STDERR_FILENO);
  }
  ::sigprocmask(SIG_SETMASK, &signals, nullptr);
  ::execv(words[0], words);
  ::_exit(kNoProgram);
}

/// The processes that end with this one's wait: its own, and those that have lost their parents.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(thread.path() / "children");
    for (pid_t child = 0; file >> child;) {
      found.push_back(child);
    }
  }
  return found;
}

bool has_in_environment(pid_t process, const std::string& entry) {
  std::ifstream file(fmt::format("/proc/{}/environ", process), std::ios::binary);
  for (std::string found; std::getline(file, found, '\0');) {
    if (found == entry) {
      return true;
    }
  }
  return false;
}

}  // namespace

Supervision::Supervision(std::string mark) : mark_(std::move(mark)), earlier_children_(children()) {
  // One that was started with SIGCHLD ignored would never learn that a child has ended.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &action, &previous_child_action_);
  ::sigemptyset(&signals_);
  ::sigaddset(&signals_, SIGCHLD);
  for (const int signal : kStopSignals) {
    ::sigaction(signal, nullptr, &action);
    if (action.sa_handler != SIG_IGN) {  // as nohup has it
      ::sigaddset(&signals_, signal);
    }
  }
  ::sigprocmask(SIG_BLOCK, &signals_, &previous_);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
}

Supervision::~Supervision() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::sigprocmask(SIG_SETMASK, &previous_, nullptr);
  ::sigaction(SIGCHLD, &previous_child_action_, nullptr);
}

/// mpirun that was killed leaves ranks behind, which would write beside those of the next attempt.
void Supervision::kill_leftovers() const {
  for (bool has_ended = true; has_ended;) {  // then its own children are here
    std::vector<std::pair<pid_t, int>> waits;
    for (const pid_t child : children()) {
      if (std::find(earlier_children_.begin(), earlier_children_.end(), child) ==
          earlier_children_.end()) {
        const bool is_ours = has_in_environment(child, mark_);
        if (is_ours) {
          ::kill(child, SIGKILL);
        }
        waits.emplace_back(child, is_ours ? 0 : WNOHANG);
      }
    }
    has_ended = false;
    for (const auto& [child, options] : waits) {
      has_ended = ::waitpid(child, nullptr, options) > 0 || has_ended;
    }
  }
}

int Supervision::take_signal(std::optional<steady_clock::time_point> deadline) const {
  for (;;) {
    int signal = 0;
    if (deadline) {
      const auto left = std::max(*deadline - steady_clock::now(), steady_clock::duration::zero());
      const auto left_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
      const timespec limit{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
      signal = ::sigtimedwait(&signals_, nullptr, &limit);
    } else {
      signal = ::sigwaitinfo(&signals_, nullptr);
    }
    if (signal > 0) {
      return signal;
    }
    if (errno != EINTR) {
      return 0;
    }
  }
}

void Supervision::wait(std::chrono::seconds duration) {
  const auto deadline = steady_clock::now() + duration;
  while (stop_signal_ == 0) {
    const int signal = take_signal(deadline);
    if (signal == 0) {
      return;
    }
    stop_signal_ = signal == SIGCHLD ? 0 : signal;
  }
}

ProcessEnd Supervision::run(const std::vector<std::string>& command, Output output,
                            std::optional<std::chrono::seconds> limit) {
  std::vector<char*> words;
  for (const auto& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    become(words.data(), parent, previous_, output == Output::kShown);
  }
  if (child < 0) {
    throw IoError(
        fmt::format("{}: cannot start a process: {}.\n  Raise the limit on processes, or "
                    "end some.",
                    command[0], std::strerror(errno)));
  }
  auto deadline = limit ? std::optional(steady_clock::now() + *limit) : std::nullopt;
  ProcessEnd end;
  for (int status = 0;;) {
    const int signal = take_signal(deadline);
    if (signal == SIGCHLD) {
      if (::waitpid(child, &status, WNOHANG) == child) {
        end.exit_code = exit_code_of(status);
        break;
      }
    } else if (signal == 0 || (stop_signal_ != 0 && (signal == SIGINT || signal == SIGTERM))) {
      ::kill(child, end.was_forced ? SIGKILL : SIGTERM);
      end.was_forced = true;
      deadline = steady_clock::now() + kEndLimit;
    } else if (stop_signal_ == 0) {
      ::kill(child, SIGUSR1);
      stop_signal_ = signal;
    }
  }
  kill_leftovers();
  return end;
}

}  // namespace trainer
