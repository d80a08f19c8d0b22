#pragma once
// Runs a program as a user would and returns what it printed.

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace trainer::test {

struct ProcessResult {
  int exit_code = -1;  // 128 + n for signal n
  std::string out;
  std::string err;
};

/// A running program.
class Process {
 public:
  explicit Process(const std::vector<std::string>& command,
                   const std::filesystem::path& working_directory = ".",
                   const std::map<std::string, std::string>& environment = {});
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  pid_t pid() const { return pid_; }
  bool running() const;
  /// Waits for its end. Fails the test, and kills it, after `timeout_s` seconds.
  ProcessResult wait(int timeout_s = 60);

 private:
  pid_t pid_ = -1;
  std::filesystem::path out_, err_;
};

/// Waits for what another process does. False where it has not come after 30 seconds.
bool wait_until(const std::function<bool()>& condition);

/// Starts it and waits.
ProcessResult run(const std::vector<std::string>& command,
                  const std::filesystem::path& working_directory = ".",
                  const std::map<std::string, std::string>& environment = {});

/// Runs a program on a terminal of so many columns and returns what it writes there by standard
/// error; its standard output is dropped. Fails the test where it does not exit with 0.
std::string run_on_terminal(const std::vector<std::string>& command, unsigned short columns,
                            const std::map<std::string, std::string>& environment = {});

/// The absolute path of tests/, where a test finds the files that lie beside it. (`__FILE__` is
/// relative where ccache compiles.)
std::filesystem::path tests_dir();

/// Runs a Python script, named relative to tests/, and returns what it prints. Throws
/// std::runtime_error with its output where it fails.
std::string run_python(const std::string& script, const std::vector<std::string>& arguments);

/// The Python that has the packages of tests/requirements.txt. Fails the test where tools/test.sh
/// has not named it.
std::string python();

}  // namespace trainer::test
