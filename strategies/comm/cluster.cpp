#include <strategies/comm/cluster.h>

#include <sys/prctl.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <strategies/mpi/mpi_library.h>
#include <strategies/mpi/mpi_world.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

/// A world of one process, which something has started. It does without MPI, which takes a while to
/// start; mpirun would add a page to what ends such a process, so that is done through MPI.
class LaunchedAlone : public World {
 public:
  explicit LaunchedAlone(std::string launcher) : launcher_(std::move(launcher)) {
    if (launcher_ == "mpirun") {
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // where that is killed, a fit saves and ends
    }
  }
  std::string launcher() const override { return launcher_; }
  void fail(const Failure& failure) override {
    if (launcher_ == "mpirun") {
      tell(failure);
      abort(failure.exit_code);
    }
  }
  void abort(int exit_code) override {
    if (launcher_ == "mpirun") {
      mpi::initialize();
      mpi::abort(exit_code);
    }
  }

 private:
  std::string launcher_;
};

class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  bool has(const std::string& name) const { return environment_.contains(name); }

  std::optional<int64_t> find(const std::string& name) const {
    const auto found = environment_.find(name);
    if (found == environment_.end()) {
      return std::nullopt;
    }
    const std::string& text = found->second;
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0) {
      throw ConfigError(
          fmt::format("environment: {}='{}' is no number of processes. It is set by what starts "
                      "them; unset it to start one alone.",
                      name, text));
    }
    return value;
  }
  int at(const std::string& name, int64_t missing) const {
    return static_cast<int>(find(name).value_or(missing));
  }

 private:
  const Environment& environment_;
};

/// A batch script and the shell of salloc are steps with numbers from here on: what they start is a
/// process of its own.
constexpr int64_t kFirstSpecialStep = 0xfffffff0;

bool in_srun_step(const Variables& variables) {
  const auto step = variables.find("SLURM_STEP_ID");
  return step && *step < kFirstSpecialStep;
}

/// Under SLURM a step of one task is as good as alone: a shell of `srun --pty`, say.
Launch of_pmi(const Variables& variables, const std::string& prefix) {
  const bool is_slurm = in_srun_step(variables);
  const std::string size_key = is_slurm ? "SLURM_STEP_NUM_TASKS" : prefix + "_SIZE";
  const Launch launch{.launcher = is_slurm ? "srun" : prefix,
                      .rank = variables.at(prefix + "_RANK", 0),
                      .size = variables.at(size_key, 0),
                      .size_key = size_key};
  return is_slurm && launch.size == 1 ? Launch() : launch;
}

/// Processes that cannot meet have all the same to say of it, and the first does: the log learns
/// which one this is.
void tell_apart(const Environment& environment) {
  for (const auto& [rank, size] :
       {std::pair("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), std::pair("RANK", "WORLD_SIZE")}) {
    const auto number = environment.find(rank);
    if (number != environment.end() && environment.contains(size)) {
      log::set_rank(std::atoi(number->second.c_str()), std::atoi(environment.at(size).c_str()));
      return;
    }
  }
}

}  // namespace

Environment this_environment() {
  Environment result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      result.emplace(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return result;
}

Launch find_launch(const Environment& environment) {
  const Variables variables(environment);
  if (variables.has("OMPI_COMM_WORLD_SIZE")) {
    return {.launcher = "mpirun",
            .rank = variables.at("OMPI_COMM_WORLD_RANK", 0),
            .size = variables.at("OMPI_COMM_WORLD_SIZE", 1),
            .size_key = "OMPI_COMM_WORLD_SIZE"};
  }
  if (variables.has("PMIX_RANK")) {
    return of_pmi(variables, "PMIX");
  }
  if (variables.has("PMI_RANK")) {
    return of_pmi(variables, "PMI");
  }
  if (in_srun_step(variables)) {
    const int tasks = variables.at("SLURM_STEP_NUM_TASKS", 1);
    if (tasks > 1) {
      throw ConfigError(
          fmt::format("srun has started {} processes (SLURM_STEP_NUM_TASKS) without telling them "
                      "of each other. Start them with srun --mpi=pmix.",
                      tasks));
    }
    return {};
  }
  const auto rank = variables.find("RANK");
  const auto size = variables.find("WORLD_SIZE");
  if (rank && size && *size > 1) {
    throw ConfigError(
        fmt::format("environment: RANK={} and WORLD_SIZE={}, as torchrun sets them: processes that "
                    "it starts cannot find each other over MPI. Start them with mpirun -n {} or "
                    "srun --mpi=pmix -n {}, or unset both to start one alone.",
                    *rank, *size, *size, *size));
  }
  return {};
}

std::unique_ptr<World> join_world() {
  if (mpi::is_initialized()) {
    return std::make_unique<MPIWorld>(Launch{.launcher = "host program", .size = 0});
  }
  const Environment environment = this_environment();
  Launch launch;
  try {
    launch = find_launch(environment);
  } catch (const ConfigError&) {
    tell_apart(environment);
    throw;
  }
  if (launch.launcher.empty()) {
    return std::make_unique<World>();
  }
  if (launch.size == 1) {
    return std::make_unique<LaunchedAlone>(launch.launcher);
  }
  return std::make_unique<MPIWorld>(launch);
}

}  // namespace trainer
