#include <strategies/comm/launcher.h>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <strategies/comm/cluster.h>
#include <strategies/comm/cores.h>
#include <strategies/mpi/mpi_world.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

/// As the kernel keeps them: the program may have changed its own.
std::vector<std::string> arguments_of_process() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  auto words = split(text, '\0');
  return {words.begin() + (words.empty() ? 0 : 1), words.end()};
}

std::string find_mpirun(int64_t num_processes) {
  const std::string doing =
      fmt::format("cannot start {} processes on this computer: ", num_processes);
  if (const char* given = std::getenv(kMpirunVariable)) {
    if (::access(given, X_OK) != 0) {
      throw ConfigError(fmt::format("{}{}={}: {}. Name Open MPI's mpirun, or unset it.", doing,
                                    kMpirunVariable, given, std::strerror(errno)));
    }
    return given;
  }
  // Debian's `mpirun` may be that of any MPI; beside it lies this one under a name of its own.
  std::vector<std::string> folders = {
      std::filesystem::path(TRAINER_MPIEXEC).parent_path().string()};
  const char* path = std::getenv("PATH");
  for (const auto& folder : split(path == nullptr ? "" : path, ':')) {
    folders.push_back(folder);
  }
  for (const auto& folder : folders) {
    for (const char* name : {"mpirun.openmpi", "mpirun"}) {
      const auto file = std::filesystem::path(folder) / name;
      if (::access(file.c_str(), X_OK) == 0) {
        return file.string();
      }
    }
  }
  throw ConfigError(
      fmt::format("{}there is no mpirun in {}. Install it (Debian: openmpi-bin), or name it in {}.",
                  doing, fmt::join(folders, ":"), kMpirunVariable));
}

}  // namespace

std::vector<std::string> mpirun_command(const std::string& mpirun, int64_t num_processes,
                                        bool more_than_cores, const std::string& program,
                                        const std::vector<std::string>& arguments) {
  const std::string n = std::to_string(num_processes);
  std::vector<std::string> command = {
      mpirun, "--allow-run-as-root", "--bind-to", "none", "--host", "localhost:" + n, "-n", n,
      // No daemon on other computers, and no limit by what a scheduler has counted.
      "--mca", "plm", "isolated", "--mca", "ras", "^slurm,tm,lsf,gridengine,alps"};
  if (more_than_cores) {
    // One that waits must give its core to the one that it waits for.
    command.insert(command.end(), {"--mca", "mpi_yield_when_idle", "1"});
  }
  command.push_back(program);
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

void launch_with_mpirun(int64_t num_processes) {
  const std::string mpirun = find_mpirun(num_processes);
  if (std::getenv(kLaunchedVariable) != nullptr) {
    throw ConfigError(
        fmt::format("{} has started this process without telling it of the others: it is not the "
                    "mpirun of the Open MPI that this program uses. Name that in {}.",
                    mpirun, kMpirunVariable));
  }
  const auto command = mpirun_command(
      mpirun, num_processes, static_cast<size_t>(num_processes) > allowed_cores().size(),
      std::filesystem::read_symlink("/proc/self/exe").string(), arguments_of_process());
  std::vector<char*> words;
  for (const auto& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);

  ::setenv(kLaunchedVariable, "1", 1);
  if (console::is_live()) {
    ::setenv(console::kTerminalVariable, std::to_string(console::columns()).c_str(), 1);
  }
  mpi::set_quiet_defaults();
  // A shell of `srun --pty` has those of its own step: they would lead the processes astray.
  for (const auto& [name, value] : this_environment()) {
    if ((name.starts_with("PMIX_") && !name.starts_with("PMIX_MCA_")) || name.starts_with("PMI_")) {
      ::unsetenv(name.c_str());
    }
  }
  console::clear_status();
  std::fflush(nullptr);
  ::execv(words[0], words.data());
  const int error = errno;
  ::unsetenv(kLaunchedVariable);
  throw ConfigError(fmt::format("{}: cannot be run: {}. Name Open MPI's mpirun in {}.", mpirun,
                                std::strerror(error), kMpirunVariable));
}

}  // namespace trainer
