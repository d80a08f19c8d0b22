#include <tests/support/process.h>

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

/// As exec takes the words, which have to live on.
std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const auto& word : words) {
    all.push_back(const_cast<char*>(word.c_str()));
  }
  all.push_back(nullptr);
  return all;
}

}  // namespace

Process::Process(const std::vector<std::string>& command,
                 const std::filesystem::path& working_directory,
                 const std::map<std::string, std::string>& environment) {
  std::string pattern =
      (std::filesystem::path(::testing::TempDir()) / "trainer_process_XXXXXX").string();
  const std::filesystem::path folder = ::mkdtemp(pattern.data());
  out_ = folder / "out";
  err_ = folder / "err";
  auto arguments = pointers(command);
  pid_ = ::fork();
  if (pid_ == 0) {
    const bool ready =
        ::chdir(working_directory.c_str()) == 0 &&
        ::dup2(::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO) >= 0 &&
        ::dup2(::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO) >= 0;
    for (const auto& [name, value] : environment) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    if (ready) {
      ::execvp(arguments[0], arguments.data());
    }
    ::_exit(127);
  }
}

Process::~Process() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(out_.parent_path(), ignored);
}

bool Process::running() const {
  siginfo_t info{};  // WNOWAIT: wait() still finds how it ended
  return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

ProcessResult Process::wait(int timeout_s) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_s);
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "still running after " << timeout_s << " s; " << read_file(err_);
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  ProcessResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(out_);
  result.err = read_file(err_);
  return result;
}

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

ProcessResult run(const std::vector<std::string>& command,
                  const std::filesystem::path& working_directory,
                  const std::map<std::string, std::string>& environment) {
  return Process(command, working_directory, environment).wait();
}

std::string run_on_terminal(const std::vector<std::string>& command, unsigned short columns,
                            const std::map<std::string, std::string>& environment) {
  auto arguments = pointers(command);
  winsize size{};
  size.ws_row = 24;
  size.ws_col = columns;
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, &size);
  if (child == 0) {
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("CI");
    for (const auto& [name, value] : environment) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  std::string output;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::read(terminal, buffer, sizeof(buffer))) > 0;) {
    output.append(buffer, static_cast<size_t>(n));
  }
  ::close(terminal);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << output;
  return output;
}

std::filesystem::path tests_dir() { return TRAINER_TESTS_DIR; }

std::string run_python(const std::string& script, const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {python(), (tests_dir() / script).string()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  ProcessResult result = run(command);
  if (result.exit_code != 0) {
    throw std::runtime_error(script + " failed:\n" + result.out + result.err);
  }
  return std::move(result.out);
}

std::string python() {
  const char* path = std::getenv("TRAINER_TEST_PYTHON");
  if (path == nullptr) {
    ADD_FAILURE() << "TRAINER_TEST_PYTHON names no Python with the packages of "
                     "tests/requirements.txt. Run the tests "
                     "through tools/test.sh.";
    return "python3";
  }
  return path;
}

}  // namespace trainer::test
