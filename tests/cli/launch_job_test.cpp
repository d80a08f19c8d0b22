// `trainer launch`: what it starts, and what it does when something of that is lost.

#include <csignal>
#include <fstream>
#include <iterator>

#include <gmock/gmock.h>

#include <trainer/core/host.h>

#include <tests/faults/fault_fixture.h>

namespace trainer::test {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

using Words = std::vector<std::string>;

const Words kLong = {"--trainer.max_epochs=15"};
const Words kEndless = {"--trainer.max_epochs=1000000"};

/// Ranks that wait leave the cores to others: this computer may be busy.
const std::map<std::string, std::string> kPatient = {{"OMPI_MCA_mpi_yield_when_idle", "1"}};

/// `trainer launch <options> -- fit --config config.yaml <words>`; with the signals that a shell in
/// the background ignores.
Words launch(const Words& options, const Words& words = {}) {
  Words all = {"env", "--default-signal=INT", TRAINER_PROGRAM, "launch"};
  all.insert(all.end(), options.begin(), options.end());
  all.insert(all.end(), {"--", "fit", "--config", "config.yaml"});
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A launch, from the moment at which its ranks have saved on.
class SavingLaunch {
 public:
  SavingLaunch(const Training& training, const Words& command,
               const std::map<std::string, std::string>& environment = kPatient)
      : folder_(training.folder()), process_(command, folder_, with_mark(environment)) {
    EXPECT_TRUE(wait_until([&] {
      return std::filesystem::exists(training.checkpoints() / "last") || !process_.running();
    }));
    EXPECT_TRUE(process_.running()) << process_.wait(1).err;
  }

  /// What lives of it, without itself, and has this variable.
  std::vector<pid_t> processes(const std::string& variable = "") const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") == std::string::npos && std::stoi(name) != pid_) {
        const std::string environment = '\0' + read(entry.path() / "environ");
        if (environment.find('\0' + (kMark + ("=" + folder_.string())) + '\0') !=
                std::string::npos &&
            environment.find('\0' + variable) != std::string::npos) {
          found.push_back(std::stoi(name));
        }
      }
    }
    return found;
  }

  void send(int signal) const { ::kill(pid_, signal); }

  /// Whether it has not yet taken a signal that it was sent.
  bool is_pending(int signal) const {
    const std::string status = read("/proc/" + std::to_string(pid_) + "/status");
    const std::string field = "\nShdPnd:\t";
    const auto at = status.find(field);
    return at != std::string::npos &&
           (std::stoull(status.substr(at + field.size()), nullptr, 16) >> (signal - 1) & 1) != 0;
  }

  bool running() const { return process_.running(); }
  ProcessResult wait() { return process_.wait(); }

 private:
  static constexpr const char* kMark = "TRAINER_TEST_FOLDER";

  std::map<std::string, std::string> with_mark(
      std::map<std::string, std::string> environment) const {
    environment[kMark] = folder_.string();
    return environment;
  }

  const std::filesystem::path folder_;
  Process process_;
  const pid_t pid_ = process_.pid();
};

TEST(Launch, AJobThatSucceedsSaysNoMoreThanMpirun) {
  const Training training;
  const auto result = run(launch({"-n", "2"}), training.folder(), kPatient);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, AllOf(HasSubstr("2 processes on 1 node (Open MPI, mpirun)"),
                                Not(HasSubstr("launch:"))));
  EXPECT_GT(training.last_step(), 0);
}

TEST(Launch, AKilledJobGoesOnFromItsCheckpointAndEndsAsOneThatWasNot) {
  const Training whole;
  const auto undisturbed = run(launch({"-n", "2"}, kLong), whole.folder(), kPatient);
  ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.err;
  // mpirun has none of the variables that it gives to ranks: it is the first process of all.
  for (const std::string victim : {"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_RANK=1", ""}) {
    const Training killed;
    SavingLaunch job(killed, launch({"-n", "2", "--max-restarts", "1"}, kLong));
    const auto victims = job.processes(victim);
    ASSERT_FALSE(victims.empty());
    ::kill(victims.front(), SIGKILL);
    const auto result = job.wait();
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err,
                AllOf(HasSubstr("launch: attempt 1 of 2 has failed\n"
                                "  cause      a process was ended by SIGKILL (by hand, or for want "
                                "of memory)\n"
                                "  exit code  137\n"),
                      HasSubstr("\n  saved      step "),
                      HasSubstr("\n  next       attempt 2 on 2 ranks, from that checkpoint\n"),
                      HasSubstr("I resuming from runs/version_0/checkpoints/")));
    EXPECT_FALSE(std::filesystem::exists(killed.folder() / "runs/version_1"));
    expect_same_outcome(killed, whole);
  }
}

TEST(Launch, WithoutACheckpointItBeginsAgainUntilNoAttemptIsLeft) {
  const Training training;
  const auto result = run(
      launch({"-n", "2", "--max-restarts", "1"},
             {"--plugin", TRAINER_BAD_MODULES, "--model=DiesOnLastRank", "--trainer.callbacks=[]"}),
      training.folder(), kPatient);
  EXPECT_EQ(result.exit_code, 137);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("  saved      nothing\n"
                              "  next       attempt 2 on 2 ranks, from the beginning\n"),
                    EndsWith("launch: attempt 2 of 2 has failed\n"
                             "  cause      a process was ended by SIGKILL (by hand, or for want of "
                             "memory)\n"
                             "  exit code  137\n"
                             "  error      rank 1/2 (" +
                             host_name() +
                             "): it has died: its connection has ended.\n"
                             "  saved      nothing\n"
                             "  next       nothing: that was the last attempt. --max-restarts 2 "
                             "allows more\n")));
}

TEST(Launch, MistakesAreNotTriedAgain) {
  const Training training;
  const auto wrong_key = run(launch({"-n", "2", "--max-restarts", "3"}, {"--trainer.max_epoch=3"}),
                             training.folder(), kPatient);
  EXPECT_EQ(wrong_key.exit_code, 2);
  EXPECT_THAT(wrong_key.err, EndsWith("Did you mean 'max_epochs'?\n"));
  EXPECT_THAT(wrong_key.err, Not(HasSubstr("launch:")));
  const auto not_finite = run(launch({"-n", "2", "--max-restarts", "3"},
                                     {"--plugin", TRAINER_BAD_MODULES, "--model=LosesFiniteness"}),
                              training.folder(), kPatient);
  EXPECT_EQ(not_finite.exit_code, 86);
  EXPECT_THAT(not_finite.err, Not(HasSubstr("launch:")));
}

TEST(Launch, AnotherExitCodeIsTriedAgainWhereThatIsAskedFor) {
  const Training training;
  const auto result =
      run(launch({"-n", "1", "--max-restarts", "1", "--restart-on", "1"},
                 {"--plugin", TRAINER_BAD_MODULES, "--model=Throws", "--trainer.callbacks=[]"}),
          training.folder(), kPatient);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("launch: attempt 1 of 2 has failed\n"),
                                HasSubstr("launch: attempt 2 of 2 has failed\n")));
}

TEST(Launch, ASignalSavesAndEndsTheJob) {
  const std::pair<int, int> signals[] = {{SIGTERM, 143}, {SIGINT, 130}, {SIGUSR1, 75}};
  for (const auto& [signal, exit_code] : signals) {
    const Training training;
    Words words = kEndless;
    words.emplace_back("--trainer.callbacks=[]");  // saves at the end of an epoch
    SavingLaunch job(training, launch({"-n", "2", "--max-restarts", "3"}, words));
    job.send(signal);
    const auto result = job.wait();
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_THAT(result.err,
                HasSubstr("stopped by signal 10 after " + std::to_string(training.last_step()) +
                          " steps; to go on, run the same command with --ckpt_path=last"));
    EXPECT_THAT(result.err, Not(HasSubstr("launch:")));
    EXPECT_TRUE(job.processes().empty());
  }
}

TEST(Launch, ASecondCtrlCEndsAJobThatDoesNotStop) {
  const Training training;
  SavingLaunch job(training, launch({"-n", "2"}, kEndless));
  for (const pid_t rank : job.processes("OMPI_COMM_WORLD_RANK=1")) {
    ::kill(rank, SIGSTOP);
  }
  job.send(SIGINT);
  ASSERT_TRUE(wait_until([&] { return !job.is_pending(SIGINT); }));
  EXPECT_TRUE(job.running());
  job.send(SIGINT);
  EXPECT_EQ(job.wait().exit_code, 130);
  EXPECT_TRUE(job.processes().empty());
}

TEST(Launch, NoProcessIsLeftWhenItIsKilled) {
  const Training training;
  SavingLaunch job(training, launch({"-n", "2"}, kEndless));
  EXPECT_GE(job.processes().size(), 3U) << "mpirun and two ranks";
  job.send(SIGKILL);
  job.wait();
  EXPECT_TRUE(wait_until([&] { return job.processes().empty(); }));
}

/// Hosts that are this computer under other names: ssh to them is this script.
constexpr const char* kAgent =
    "#!/bin/sh\n"
    "while [ \"${1#-}\" != \"$1\" ]; do shift; done\n"
    "export FAKE_HOST=$1\n"
    "shift\n"
    "[ -e \"$FAKE_HOSTS/$FAKE_HOST.down\" ] && echo >> \"$FAKE_HOSTS/tries\" && exit 255\n"
    "command=$*\n"
    "exec unshare --uts sh -c 'hostname $FAKE_HOST && exec sh -c \"$0\"' \"$command\"\n";

class LaunchHostsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::trainer::test::run({"unshare", "--uts", "true"}).exit_code != 0) {
      GTEST_SKIP() << "unshare --uts is not permitted here";
    }
    const auto agent = write_file(training_.folder() / "agent", kAgent);
    std::filesystem::permissions(agent, std::filesystem::perms::owner_all);
    environment_ = kPatient;
    environment_.insert(
        {{"OMPI_MCA_plm_rsh_agent", agent.string()}, {"FAKE_HOSTS", training_.folder().string()}});
  }

  Training training_;
  std::map<std::string, std::string> environment_;
};

TEST_F(LaunchHostsTest, WhereAHostIsLostFewerRanksGoOn) {
  SavingLaunch job(training_,
                   launch({"--hosts", "n1,n2", "--max-restarts", "1", "--min-ranks", "1"}, kLong),
                   environment_);
  write_file(training_.folder() / "n2.down", "");
  for (const pid_t pid : job.processes("FAKE_HOST=n2")) {
    ::kill(pid, SIGKILL);
  }
  const auto result = job.wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("2 processes on 2 nodes (Open MPI, mpirun)"),
                    HasSubstr("  exit code  75\n  error      rank 1/2 (n2): it has died"),
                    HasSubstr("\n  lost       n2\n  saved      step "),
                    HasSubstr("attempt 2 on 1 rank, from that checkpoint\n")));
}

TEST_F(LaunchHostsTest, AHostThatDoesNotAnswerIsWaitedFor) {
  write_file(training_.folder() / "n2.down", "");
  const auto result =
      ::trainer::test::run(launch({"--hosts", "n1,n2", "--max-restarts", "1", "--host-wait", "1"}),
                           training_.folder(), environment_);
  EXPECT_EQ(result.exit_code, 75) << result.err;
  EXPECT_THAT(result.err,
              EndsWith("  lost       n2\n"
                       "  saved      nothing\n"
                       "  next       nothing: too few hosts answer. --min-ranks 1 would go on\n"));
  const auto tries = write_file(training_.folder() / "tries", "");
  Process process(launch({"--hosts", "n1,n2", "--max-restarts", "1"}), training_.folder(),
                  environment_);
  EXPECT_TRUE(wait_until([&] { return read_file(tries).size() >= 3; })) << "by the job, and twice";
  std::filesystem::remove(training_.folder() / "n2.down");
  const auto later = process.wait();
  EXPECT_EQ(later.exit_code, 0) << later.err;
  EXPECT_THAT(later.err, HasSubstr("attempt 2 on 2 ranks, from the beginning\n"));
}

}  // namespace
}  // namespace trainer::test
