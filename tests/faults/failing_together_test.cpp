// Whatever happens to one of the processes that train together, all end, soon, with the first
// cause as the last words and its exit code; nothing of them stays; and the resumed run ends as one
// that nothing has happened to, byte for byte. Cases are drawn: TRAINER_FAULT_CASES of them, from
// TRAINER_FAULT_SEED.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include <tests/faults/fault_fixture.h>
#include <trainer/core/host.h>

namespace trainer::test {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using FileClock = std::filesystem::file_time_type::clock;

/// Far above the one to two seconds that a throw or a death takes: the machine does other things
/// too.
constexpr double kMostSeconds = 12;

struct Fault {
  std::string name;
  int exit_code;
  std::string words;    ///< Of its message, after the name of the rank.
  int to_launcher = 0;  ///< The signal that mpirun gets instead.
  int to_ranks = 0;     ///< That all ranks get instead.
};

const std::vector<Fault>& faults() {
  static const std::vector<Fault> all = {
      {"throw", 1, "a fault was asked for"},
      {"kill", 137, "it has died"},
      {"exit", 3, "the program was ended in the middle of fit, with exit code 3"},
      {"quick_exit", 3, "it has died"},
      {"abort", 134, "it has died"},
      {"stop", 75, "it gives no sign of life"},
      {"sleep", 75, "did not come to"},
      {"terminate", 143, ""},
      {"mark", 1, "", SIGTERM},
      {"mark", 137, "", SIGKILL},
      {"mark", 143, "", 0, SIGTERM},
  };
  return all;
}

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

/// Those that work in this folder.
std::vector<pid_t> processes_in(const fs::Path& folder) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::error_code error;
    const auto place = std::filesystem::read_symlink(entry.path() / "cwd", error);
    if (!error && place == folder) {
      found.push_back(std::stoi(entry.path().filename()));
    }
  }
  return found;
}

struct Case {
  std::string strategy, hook;
  Fault fault;
  int ranks, rank, step;

  std::string text() const {
    return strategy + ": " + fault.name + " in " + hook + " of rank " + std::to_string(rank) +
           " of " + std::to_string(ranks) + " in step " + std::to_string(step) +
           (fault.to_launcher != 0 ? ", signal " + std::to_string(fault.to_launcher) : "") +
           (fault.to_ranks != 0 ? ", signal to all " + std::to_string(fault.to_ranks) : "");
  }
  std::map<std::string, std::string> environment() const {
    return {{"FAULT", fault.name},
            {"FAULT_HOOK", hook},
            {"FAULT_RANK", std::to_string(rank)},
            {"FAULT_STEP", std::to_string(step)},
            {"FAULT_MARK", "mark"}};
  }
};

class FailingTogether : public ::testing::Test {
 protected:
  static std::vector<std::string> fit(const Case& one, std::vector<std::string> more = {}) {
    more.insert(more.end(),
                {"--plugin", TRAINER_FAULTY_MODULES, "--model={class_path: FaultyModule}",
                 "--trainer.devices=" + std::to_string(one.ranks),
                 "--trainer.strategy=" + one.strategy, "--trainer.hang_timeout_s=5"});
    return Training::fit(more);
  }

  static std::map<std::string, std::string> quick(std::map<std::string, std::string> environment,
                                                  const fs::Path& memory) {
    environment.insert({{"TRAINER_HEARTBEAT_TIMEOUT_S", "2"},
                        {"OMPI_MCA_btl_vader_backing_directory", memory.string()}});
    return environment;
  }

  const Training& undisturbed(const Case& one) {
    auto& whole = undisturbed_[one.strategy + std::to_string(one.ranks)];
    if (whole == nullptr) {
      whole = std::make_unique<Training>();
      const auto result = run(fit(one), whole->folder());
      EXPECT_EQ(result.exit_code, 0) << result.err;
    }
    return *whole;
  }

  void try_case(const Case& one) {
    SCOPED_TRACE(one.text());
    const Training training;
    const TempDir memory;
    Process process(fit(one), training.folder(), quick(one.environment(), memory.path()));
    const auto mark = training.folder() / "mark";
    while (!std::filesystem::exists(mark) && process.running()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (one.fault.to_launcher != 0) {
      ::kill(process.pid(), one.fault.to_launcher);
    }
    for (const pid_t pid :
         one.fault.to_ranks != 0 ? processes_in(training.folder()) : std::vector<pid_t>()) {
      if (pid != process.pid()) {
        ::kill(pid, one.fault.to_ranks);
      }
    }
    const auto result = process.wait();
    while (!processes_in(training.folder()).empty() && seconds_since(mark) < kMostSeconds) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    const double seconds = seconds_since(mark);
    std::cout << one.text() << ": " << seconds << " s" << std::endl;
    EXPECT_LT(seconds, kMostSeconds) << result.err;
    EXPECT_TRUE(processes_in(training.folder()).empty()) << result.err;
    EXPECT_TRUE(std::filesystem::is_empty(memory.path())) << "shared memory is left";
    EXPECT_EQ(result.exit_code, one.fault.exit_code) << result.err;
    expect_told(one, training, result.err);
    resume(one, training);
  }

  static double seconds_since(const fs::Path& file) {
    return std::chrono::duration<double>(FileClock::now() - std::filesystem::last_write_time(file))
        .count();
  }

  static void expect_told(const Case& one, const Training& training, const std::string& err) {
    if (one.fault.words.empty()) {
      return;
    }
    const std::string rank = "rank " + std::to_string(one.rank), size = std::to_string(one.ranks);
    const auto at = err.rfind("error: ");
    ASSERT_NE(at, std::string::npos) << err;
    const std::string last = err.substr(at);
    EXPECT_THAT(last, HasSubstr(one.fault.words));
    if (training.last_step() > 0) {
      EXPECT_THAT(last, HasSubstr("--ckpt_path=last --run runs/version_0"));
    }
    const auto file = training.folder() / "runs/version_0/error.json";
    ASSERT_TRUE(std::filesystem::exists(file)) << err;
    const auto message = nlohmann::json::parse(read_file(file)).at("message");
    EXPECT_EQ(message.at("extraInfo").at("rank"), one.rank) << err;
    EXPECT_EQ(message.at("extraInfo").at("host"), host_name());
    if (one.rank > 0 || one.fault.name != "throw") {
      EXPECT_THAT(last,
                  AnyOf(HasSubstr(rank + "/" + size + " (" + host_name() + ")"),
                        HasSubstr(rank + "/" + size + ": "), HasSubstr(rank + " did not come"),
                        HasSubstr("the program was ended")));
    }
    if (one.fault.name == "sleep") {
      EXPECT_TRUE(std::filesystem::exists(training.folder() / "runs/version_0/flight/rank_0.json"));
      EXPECT_TRUE(std::filesystem::exists(training.folder() / "runs/version_0/flight/rank_1.json"));
    }
  }

  void resume(const Case& one, const Training& training) {
    const bool has_checkpoint = training.last_step() > 0;
    if (!has_checkpoint) {
      std::filesystem::remove_all(training.folder() / "runs");
    }
    const auto more =
        has_checkpoint ? std::vector<std::string>{"--ckpt_path=last"} : std::vector<std::string>{};
    const auto result = run(fit(one, more), training.folder());
    ASSERT_EQ(result.exit_code, 0) << result.err;
    expect_same_outcome(training, undisturbed(one));
    EXPECT_FALSE(std::filesystem::exists(training.folder() / "runs/version_0/error.json"));
  }

 private:
  std::map<std::string, std::unique_ptr<Training>> undisturbed_;
};

TEST_F(FailingTogether, EveryFaultOfOneEndsAllAndTheResumedRunIsTheUndisturbedOne) {
  std::mt19937 random(static_cast<uint32_t>(number("TRAINER_FAULT_SEED", 1)));
  const int cases = number("TRAINER_FAULT_CASES", 30);
  const std::vector<std::string> hooks = {
      // What takes long by its nature, a hang in which is noticed late.
      "configure_model", "setup", "configure_optimizers", "on_fit_start", "on_save_checkpoint",
      // The steps.
      "on_train_start", "on_train_epoch_start", "on_train_batch_start", "training_step",
      "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
      "on_train_batch_end", "on_validation_epoch_start", "validation_step",
      "on_validation_epoch_end", "on_train_epoch_end",
      // Nothing is left to stop.
      "on_train_end"};
  const auto draw = [&](const Fault& fault) {
    const size_t begin = fault.name == "sleep" ? 5 : 0;
    const bool is_signal = fault.name == "terminate" || fault.name == "mark";
    const size_t end = hooks.size() - (is_signal ? 1 : 0);
    return hooks[begin + random() % (end - begin)];
  };
  for (int i = 0; i < cases && !HasFailure(); ++i) {
    // Each fault as often as any other, with each strategy, on two ranks more often than on four.
    const auto turn = static_cast<size_t>(i);
    const size_t round = turn / faults().size();
    const auto ranks = round % 3 == 2 ? 4U : 2U;
    const auto& fault = faults()[turn % faults().size()];
    const std::string hook = draw(fault);
    try_case({.strategy = round % 2 == 0 ? "ddp" : "fsdp",
              .hook = hook,
              .fault = fault,
              .ranks = static_cast<int>(ranks),
              .rank = static_cast<int>(random() % ranks),
              .step = hook == "on_train_start" ? 0 : static_cast<int>(random() % 10)});
  }
}

}  // namespace
}  // namespace trainer::test
