#include <trainer/cli/launch.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <regex>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/cli/command.h>
#include <trainer/cli/launch_ends.h>
#include <trainer/cli/launch_hosts.h>
#include <trainer/cli/launch_mpijob.h>
#include <trainer/cli/launched_process.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>
#include <trainer/run_directory.h>
#include <trainer/world.h>

namespace trainer {
namespace {

constexpr auto kBetweenProbes = std::chrono::seconds(2);

/// The file in which rank 0 names its run folder; where there are several hosts it lies in the
/// current folder, which mpirun enters on each of them. It goes with this object.
class RunFile {
 public:
  explicit RunFile(bool is_for_hosts) {
    const fs::Path folder =
        is_for_hosts ? std::filesystem::current_path() : std::filesystem::temp_directory_path();
    path_ = (folder / fmt::format(".trainer_launch_{}_XXXXXX", host_name())).string();
    const int file = ::mkstemp(path_.data());
    if (file < 0) {
      throw IoError(fmt::format(
          "launch: cannot create a file in {}: {}.\n  {}", folder.string(), std::strerror(errno),
          is_for_hosts ? "Start launch in a folder that can be written to, on all hosts."
                       : "Name a folder that can be written to in TMPDIR."));
    }
    ::close(file);
    ::setenv(kRunFileVariable, path_.c_str(), 1);
  }
  RunFile(const RunFile&) = delete;
  RunFile& operator=(const RunFile&) = delete;
  ~RunFile() {
    std::error_code error;
    std::filesystem::remove(path_, error);
    ::unsetenv(kRunFileVariable);
  }

  /// What the processes of this launch have in their environment.
  std::string mark() const { return fmt::format("{}={}", kRunFileVariable, path_); }

  /// The run, once there is one.
  std::optional<RunDirectory> run() const {
    std::error_code error;
    const auto size = std::filesystem::file_size(path_, error);
    if (error || size == 0) {
      return std::nullopt;
    }
    return RunDirectory(fs::read_text(path_));
  }

  /// By the clock of its file system: that of a folder which hosts share is not this computer's.
  std::filesystem::file_time_type now() const {
    std::error_code error;
    ::utimensat(AT_FDCWD, path_.c_str(), nullptr, 0);
    return std::filesystem::last_write_time(path_, error);
  }

 private:
  std::string path_;
};

struct SavedCheckpoint {
  fs::Path run, path;
  int64_t step = 0;
};

std::optional<SavedCheckpoint> newest_checkpoint(const std::optional<RunDirectory>& run) {
  const auto last = run ? run->last() : std::nullopt;
  if (!last) {
    return std::nullopt;
  }
  const auto about = CheckpointReader::read_about(*last);
  return SavedCheckpoint{run->path(), *last, about.value("global_step", int64_t{0})};
}

/// The same command, from the checkpoint on.
std::vector<std::string> resuming(const std::vector<std::string>& program,
                                  const SavedCheckpoint& checkpoint) {
  std::vector<std::string> words;
  for (size_t i = 0; i < program.size(); ++i) {
    bool is_replaced = false;
    for (const std::string option : {"--ckpt_path", "--run", "--init_from"}) {
      is_replaced = is_replaced || program[i] == option || program[i].starts_with(option + "=");
      i += program[i] == option ? 1 : 0;  // and its value
      if (is_replaced) {
        break;
      }
    }
    if (!is_replaced) {
      words.push_back(program[i]);
    }
  }
  words.insert(words.end(), {"--ckpt_path=last", "--run", checkpoint.run.string()});
  return words;
}

std::string names_of(const std::vector<Host>& hosts) {
  std::vector<std::string> names;
  for (const Host& host : hosts) {
    names.push_back(host.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

/// Text in the second column of what is told.
std::string aligned(const std::string& text) {
  return std::regex_replace(text, std::regex("\n"), "\n             ");
}

/// Runs a job, and again where that may help.
class JobSupervisor {
 public:
  JobSupervisor(const LaunchOptions& options, Job job)
      : options_(options), all_(std::move(job)), job_(all_) {}

  /// Until one succeeds, or none may any more.
  int run() {
    for (int64_t attempt = 1;; ++attempt) {
      const auto start = file_.now();
      const ProcessEnd mpirun = supervision_.run(command_of(job_));
      JobEnd end = end_of_job(mpirun, supervision_.stop_signal(), !all_.hosts.empty());
      if (end.exit_code == 0 || supervision_.stop_signal() != 0) {
        return end.exit_code;
      }
      const bool has_another = attempt <= options_.max_restarts;
      if (!find_hosts(end, has_another)) {
        return end.exit_code;
      }
      if (!is_worth_another(end)) {
        if (has_another && end.exit_code == static_cast<int>(ExitCode::kUserCode)) {
          console::write_line(
              "launch: an error that was raised is not tried again; --restart-on 1 would");
        }
        return end.exit_code;
      }
      const auto run = file_.run();
      const auto checkpoint = newest_checkpoint(run);
      const bool goes_on = has_another && has_enough_hosts();
      if (goes_on && checkpoint) {
        job_.arguments = resuming(all_.arguments, *checkpoint);
      }
      tell(attempt, end, run ? error_of_rank(run->path(), start) : "", checkpoint);
      if (!goes_on) {
        return end.exit_code;
      }
    }
  }

 private:
  bool is_worth_another(const JobEnd& end) const {
    const auto& codes = options_.restart_on;
    return end.may_pass || std::find(codes.begin(), codes.end(), end.exit_code) != codes.end();
  }

  bool has_enough_hosts() const { return slots_of(job_.hosts) >= min_slots_ || all_.hosts.empty(); }

  /// Finds out which hosts are left. mpirun ends with 1 both where it cannot start a daemon on one
  /// and where a rank does: the hosts tell. Waits for them where there is another attempt. False
  /// where a signal came meanwhile.
  bool find_hosts(JobEnd& end, bool has_another) {
    const bool is_of_hosts = end.may_pass || end.exit_code == static_cast<int>(ExitCode::kUserCode);
    if (all_.hosts.empty() || !is_of_hosts) {
      return true;
    }
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::seconds(options_.host_wait_s);
    for (bool is_first = true;; is_first = false) {
      job_.hosts = hosts_that_answer(supervision_, all_.hosts);
      if (supervision_.stop_signal() != 0) {
        end = end_of_job({.was_forced = true}, supervision_.stop_signal(), true);
        return false;
      }
      if (is_first && !end.may_pass && job_.hosts.size() < all_.hosts.size()) {
        end = {static_cast<int>(ExitCode::kTryAgain), "a host cannot be reached", true};
      }
      const bool may_wait = has_another && std::chrono::steady_clock::now() <= deadline;
      if (!end.may_pass || has_enough_hosts() || !may_wait) {
        job_.num_ranks = std::min(all_.num_ranks, slots_of(job_.hosts));
        return true;
      }
      supervision_.wait(kBetweenProbes);
    }
  }

  void tell(int64_t attempt, const JobEnd& end, const std::string& error,
            const std::optional<SavedCheckpoint>& checkpoint) const {
    std::string text =
        fmt::format("launch: attempt {} of {} has failed\n  cause      {}\n  exit code  {}\n",
                    attempt, options_.max_restarts + 1, end.cause, end.exit_code);
    if (!error.empty()) {
      text += fmt::format("  error      {}\n", aligned(error));
    }
    std::vector<Host> lost;
    for (const Host& host : all_.hosts) {
      if (std::find(job_.hosts.begin(), job_.hosts.end(), host) == job_.hosts.end()) {
        lost.push_back(host);
      }
    }
    if (!lost.empty()) {
      text += fmt::format("  lost       {}\n", names_of(lost));
    }
    text += fmt::format(
        "  saved      {}\n  next       {}",
        checkpoint ? fmt::format("step {}, {}", checkpoint->step, checkpoint->path.string())
                   : "nothing",
        next_of(attempt, checkpoint));
    console::write_line(text);
  }

  /// What comes after an attempt, or what could be done.
  std::string next_of(int64_t attempt, const std::optional<SavedCheckpoint>& checkpoint) const {
    std::string advice;
    if (attempt > options_.max_restarts) {
      advice = fmt::format("that was the last attempt. --max-restarts {} allows more",
                           std::max<int64_t>(2 * options_.max_restarts, 1));
    } else if (has_enough_hosts()) {
      return fmt::format("attempt {} on {} rank{}, from {}", attempt + 1, job_.num_ranks,
                         job_.num_ranks == 1 ? "" : "s",
                         checkpoint ? "that checkpoint" : "the beginning");
    } else if (job_.hosts.empty()) {
      advice = fmt::format("no host answers. --host-wait {} waits longer",
                           std::max<int64_t>(2 * options_.host_wait_s, 60));
    } else {
      advice =
          fmt::format("too few hosts answer. --min-ranks {} would go on", slots_of(job_.hosts));
    }
    if (checkpoint) {
      advice +=
          "\nto go on: the same command with --ckpt_path=last --run " + checkpoint->run.string();
    }
    return "nothing: " + aligned(advice);
  }

  const LaunchOptions& options_;
  const Job all_;  // as it was asked for
  Job job_;        // of the next attempt
  const int64_t min_slots_ = options_.min_ranks.value_or(all_.num_ranks);
  RunFile file_{!all_.hosts.empty()};
  Supervision supervision_{file_.mark()};
};

void check(const LaunchOptions& options) {
  const std::string usage =
      "\n  For example: trainer launch -n 2 --max-restarts 3 -- fit --config run.yaml";
  if (options.program.empty()) {
    throw ConfigError("launch: behind -- there is no command to start." + usage);
  }
  const auto& command = options.program[0];
  const char* const stages[] = {"fit", "validate", "test", "predict"};
  if (std::find(std::begin(stages), std::end(stages), command) == std::end(stages)) {
    throw ConfigError(fmt::format("launch: '{}' is not run by several ranks. Behind -- comes {}.{}",
                                  command, fmt::join(stages, ", "), usage));
  }
  if (!options.hosts.empty() && !options.hostfile.empty()) {
    throw ConfigError("launch: --hosts and --hostfile both say where. Give one of them.");
  }
  if (!world().launcher().empty()) {
    throw ConfigError(fmt::format(
        "launch: {} has started this process, and launch would start ranks in every one of them. "
        "Leave out one of the two.",
        world().launcher()));
  }
}

}  // namespace

Job job_of(const LaunchOptions& options) {
  Job job{.arguments = options.program};
  if (!options.hostfile.empty()) {
    job.hosts = read_hostfile(options.hostfile, options.num_ranks);
  } else if (!options.hosts.empty()) {
    job.hosts = parse_hosts(options.hosts, options.num_ranks);
  } else if (!options.num_ranks) {
    throw ConfigError("launch: how many ranks? Give -n, or --hosts or --hostfile with slots.");
  }
  const int64_t slots = slots_of(job.hosts);
  job.num_ranks = options.num_ranks.value_or(slots);
  if (!job.hosts.empty() && job.num_ranks > slots) {
    throw ConfigError(
        fmt::format("launch: -n {}, but the hosts have {} slots. Start fewer ranks, or "
                    "give the hosts more slots.",
                    job.num_ranks, slots));
  }
  if (options.min_ranks && job.hosts.empty()) {
    throw ConfigError(
        fmt::format("launch: --min-ranks {} says how many ranks go on where a host is lost, but no "
                    "hosts are given. Give --hosts or --hostfile, or leave it out.",
                    *options.min_ranks));
  }
  check_min_ranks(options, job.num_ranks);
  return job;
}

void check_min_ranks(const LaunchOptions& options, int64_t num_ranks) {
  if (options.min_ranks && *options.min_ranks > num_ranks) {
    throw ConfigError(
        fmt::format("launch: --min-ranks {} is more than the {} ranks of the job. "
                    "Give at most that number.",
                    *options.min_ranks, num_ranks));
  }
}

int launch_job(const Arguments& arguments) {
  const LaunchOptions& options = arguments.launch;
  check(options);
  if (!options.emit.empty()) {
    console::print(mpijob(options));
    return static_cast<int>(ExitCode::kOk);
  }
  return JobSupervisor(options, job_of(options)).run();
}

}  // namespace trainer
