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
#include <strategies/mpi/mpi_library.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr const char* kExportedPrefixes[] = {"TRAINER_", "NCCL_", "TORCH_", "OMP_",
                                             "LD_LIBRARY_PATH"};

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

std::string find_mpirun(const Job& job) {
  const std::string doing =
      fmt::format("cannot start {} process{}{}: ", job.num_ranks, job.num_ranks == 1 ? "" : "es",
                  job.hosts.empty() ? " on this computer" : "");
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

/// What mpirun is to give to ranks on other computers of this environment: it passes on OMPI_* by
/// itself.
std::vector<std::string> exported_variables() {
  std::vector<std::string> options;
  for (const auto& [name, value] : this_environment()) {
    const bool is_ours =
        std::any_of(std::begin(kExportedPrefixes), std::end(kExportedPrefixes),
                    [&name = name](const char* prefix) { return name.starts_with(prefix); });
    if (is_ours) {
      options.insert(options.end(), {"-x", name});
    }
  }
  return options;
}

/// For mpirun, and through it for the ranks.
void prepare_environment() {
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
}

}  // namespace

std::vector<std::string> mpirun_command(const std::string& mpirun, const Job& job,
                                        bool more_than_cores, const std::string& program) {
  std::vector<std::string> hosts;
  for (const Host& host : job.hosts) {
    hosts.push_back(fmt::format("{}:{}", host.name, host.slots));
  }
  const std::string n = std::to_string(job.num_ranks);
  std::vector<std::string> command = {
      mpirun, "--allow-run-as-root", "--bind-to", "none", "--host",
      hosts.empty() ? "localhost:" + n : fmt::format("{}", fmt::join(hosts, ",")), "-n", n,
      // No limit by what a scheduler has counted.
      "--mca", "ras", "^slurm,tm,lsf,gridengine,alps"};
  if (hosts.empty()) {
    command.insert(command.end(), {"--mca", "plm", "isolated"});  // no daemon on other computers
  } else {
    // A host that has lost its power says nothing: by default it is missed after eight minutes.
    command.insert(command.end(), {"--mca", "oob_tcp_keepalive_time", "1",   //
                                   "--mca", "oob_tcp_keepalive_intvl", "1",  //
                                   "--mca", "oob_tcp_keepalive_probes", "2"});
    const auto exported = exported_variables();
    command.insert(command.end(), exported.begin(), exported.end());
  }
  if (more_than_cores) {
    // One that waits must give its core to the one that it waits for.
    command.insert(command.end(), {"--mca", "mpi_yield_when_idle", "1"});
  }
  command.push_back(program);
  command.insert(command.end(), job.arguments.begin(), job.arguments.end());
  return command;
}

std::vector<std::string> command_with_mpirun(const Job& job, const std::string& program) {
  const std::string mpirun = find_mpirun(job);
  prepare_environment();
  const bool is_crowded =
      job.hosts.empty() && static_cast<size_t>(job.num_ranks) > allowed_cores().size();
  return mpirun_command(
      mpirun, job, is_crowded,
      program.empty() ? std::filesystem::read_symlink("/proc/self/exe").string() : program);
}

void launch_with_mpirun(int64_t num_processes) {
  const Job job{.num_ranks = num_processes, .arguments = arguments_of_process()};
  if (std::getenv(kLaunchedVariable) != nullptr) {
    throw ConfigError(
        fmt::format("{} has started this process without telling it of the others: it is not the "
                    "mpirun of the Open MPI that this program uses. Name that in {}.",
                    find_mpirun(job), kMpirunVariable));
  }
  const auto command = command_with_mpirun(job, "");
  std::vector<char*> words;
  for (const auto& word : command) {
    words.push_back(const_cast<char*>(word.c_str()));
  }
  words.push_back(nullptr);

  console::clear_status();
  std::fflush(nullptr);
  ::execv(words[0], words.data());
  const int error = errno;
  ::unsetenv(kLaunchedVariable);
  throw ConfigError(fmt::format("{}: cannot be run: {}. Name Open MPI's mpirun in {}.", command[0],
                                std::strerror(error), kMpirunVariable));
}

}  // namespace trainer
