// What `trainer launch` does with processes, signals and hosts; a script stands in for mpirun.

#include <csignal>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

using Words = std::vector<std::string>;

Words joined(Words first, const Words& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

class LaunchedProcessTest : public ::testing::Test {
 protected:
  void mpirun_is(const std::string& script) const {
    const auto file = write_file(dir_ / "mpirun", "#!/bin/sh\n" + script);
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  }

  static Words launch(const Words& options = {"-n", "1"}) {
    return joined(joined({"env", "--default-signal=INT", TRAINER_PROGRAM, "launch"}, options),
                  {"--", "fit"});
  }

  std::map<std::string, std::string> environment() const {
    return {{"TRAINER_MPIRUN", (dir_ / "mpirun").string()}};
  }
  ProcessResult run_launch(const Words& words) const {
    return ::trainer::test::run(words, dir_.path(), environment());
  }
  bool has(const std::string& name) const { return std::filesystem::exists(dir_ / name); }
  pid_t pid_in(const std::string& name) const { return std::stoi(read_file(dir_ / name)); }

  const TempDir dir_;
};

TEST_F(LaunchedProcessTest, WhatMpirunLeavesBehindIsKilledAndNothingElse) {
  // A child from before, one that another such child leaves behind, and two of mpirun's.
  const std::string before =
      "sleep 1000 & echo $! > earlier\n"
      "(while [ -e mpirun ] && [ ! -e begun ]; do sleep 0.01; done\n"
      "sleep 1000 & echo $! > adopted) &\n"
      "exec \"$@\"\n";
  mpirun_is(
      "touch begun\n"
      "sleep 1000 & echo $! > own\n"
      "sh -c 'sleep 1000 & echo $! > grandchild; exec sleep 1000' &\n"
      "is_adopted() { [ -s adopted ] && grep -q \"^PPid:.$PPID$\" /proc/$(cat adopted)/status; }\n"
      "while [ -e begun ] && ! { [ -s grandchild ] && is_adopted; }; do sleep 0.01; done\n");
  const auto result = run_launch(joined({"sh", "-c", before, "sh"}, launch()));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* name : {"earlier", "adopted"}) {
    EXPECT_EQ(::kill(pid_in(name), SIGKILL), 0) << name << " was killed";
  }
  for (const char* name : {"own", "grandchild"}) {
    EXPECT_EQ(::kill(pid_in(name), SIGKILL), -1) << name << " still ran";
  }
}

TEST_F(LaunchedProcessTest, ItReturnsWhereItsParentIgnoresTheEndOfChildren) {
  mpirun_is("exit 3\n");
  EXPECT_EQ(run_launch(joined({"env", "--ignore-signal=CHLD"}, launch())).exit_code, 3);
}

TEST_F(LaunchedProcessTest, ALaterCtrlCOrSIGTERMEndsMpirun) {
  mpirun_is(
      "trap 'touch asked' USR1\n"
      "trap 'touch ended; exit 1' TERM\n"
      "touch begun\n"
      "while [ -e begun ]; do sleep 0.01; done\n");
  const std::pair<int, int> signals[] = {
      {SIGTERM, SIGTERM}, {SIGTERM, SIGINT}, {SIGHUP, SIGTERM}, {SIGUSR1, SIGTERM}};
  for (const auto& [first, second] : signals) {
    Process process(launch(), dir_.path(), environment());
    ASSERT_TRUE(wait_until([&] { return has("begun"); }));
    ::kill(process.pid(), first);
    ASSERT_TRUE(wait_until([&] { return has("asked"); }));
    EXPECT_FALSE(has("ended"));
    ::kill(process.pid(), second);
    const auto result = process.wait();
    EXPECT_EQ(result.exit_code, first == SIGUSR1 ? 75 : 143) << result.err;
    EXPECT_TRUE(has("ended"));
    for (const char* name : {"begun", "asked", "ended"}) {
      std::filesystem::remove(dir_ / name);
    }
  }
}

TEST_F(LaunchedProcessTest, AnMpirunThatDoesNotEndIsKilled) {
  mpirun_is(
      "trap 'touch asked' USR1\n"
      "trap '' TERM\n"
      "touch begun\n"
      "while [ -e begun ]; do sleep 0.01; done\n");
  Process process(launch(), dir_.path(), environment());
  ASSERT_TRUE(wait_until([&] { return has("begun"); }));
  ::kill(process.pid(), SIGTERM);
  ASSERT_TRUE(wait_until([&] { return has("asked"); }));
  ::kill(process.pid(), SIGTERM);
  EXPECT_EQ(process.wait().exit_code, 143);
}

TEST_F(LaunchedProcessTest, LaunchesOfTheSameProcessNumberHaveFilesOfTheirOwn) {
  const Words in_container = {"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"};
  if (::trainer::test::run(joined(in_container, {"true"})).exit_code != 0) {
    GTEST_SKIP() << "unshare --pid is not permitted here";
  }
  mpirun_is("echo $PPID $TRAINER_RUN_FILE\n");
  const auto one = run_launch(joined(in_container, launch()));
  const auto other = run_launch(joined(in_container, launch()));
  EXPECT_EQ(one.out.substr(0, 2), "1 ") << one.err;
  EXPECT_EQ(other.out.substr(0, 2), "1 ") << other.err;
  EXPECT_NE(one.out, other.out);
}

/// The last word of a probe is `true`.
constexpr const char* kHost = "while [ \"$1\" != --host ]; do shift; done; host=${2%:*}\n";
constexpr const char* kIsProbe = "for word; do :; done; [ \"$word\" = true ]";

TEST_F(LaunchedProcessTest, ASignalEndsTheSearchForHosts) {
  mpirun_is(std::string(kHost) + "if " + kIsProbe +
            "; then\n"
            "  trap 'exit 1' USR1\n"
            "  echo $host >> begun\n"
            "  while [ -e begun ]; do sleep 0.01; done\n"
            "fi\n"
            "exit 205\n");
  Process process(launch({"--hosts", "n1,n2", "--max-restarts", "1"}), dir_.path(), environment());
  ASSERT_TRUE(wait_until([&] { return has("begun"); }));
  ::kill(process.pid(), SIGTERM);
  EXPECT_EQ(process.wait().exit_code, 143);
  EXPECT_EQ(read_file(dir_ / "begun"), "n1\n");
}

TEST_F(LaunchedProcessTest, HostsAreNotWaitedForWhereNoAttemptIsLeft) {
  mpirun_is(std::string(kHost) + kIsProbe + " && [ $host = n1 ] && exit 0\nexit 205\n");
  const auto result = run_launch(launch({"--hosts", "n1,n2", "--host-wait", "1000"}));
  EXPECT_EQ(result.exit_code, 75);
  EXPECT_THAT(result.err, EndsWith("  lost       n2\n"
                                   "  saved      nothing\n"
                                   "  next       nothing: that was the last attempt. "
                                   "--max-restarts 1 allows more\n"));
}

TEST_F(LaunchedProcessTest, WhereNoHostAnswersFewerRanksAreNotAdvised) {
  mpirun_is("exit 205\n");
  const auto result =
      run_launch(launch({"--hosts", "n1,n2", "--host-wait", "0", "--max-restarts", "1"}));
  EXPECT_EQ(result.exit_code, 75);
  EXPECT_THAT(result.err,
              EndsWith("  lost       n1, n2\n"
                       "  saved      nothing\n"
                       "  next       nothing: no host answers. --host-wait 60 waits longer\n"));
}

TEST_F(LaunchedProcessTest, TheErrorOfARankIsTold) {
  const std::string error =
      R"({"message": {"message": "no link to rank 0\n  Look at its host.", "extraInfo": {)"
      R"("timestamp": "1700000000", "rank": 1, "world_size": 2, "host": "node1", "step": 412,)"
      R"( "exit_code": 75}}})";
  write_file(dir_ / "error.json", error);
  const std::string tells_run = "printf %s \"$PWD/run\" > $TRAINER_RUN_FILE\n";
  mpirun_is(tells_run + "cp error.json run\nexit 75\n");
  std::filesystem::create_directory(dir_ / "run");
  const auto told = run_launch(launch());
  EXPECT_EQ(told.exit_code, 75);
  EXPECT_THAT(told.err, HasSubstr("  exit code  75\n"
                                  "  error      rank 1/2 (node1): no link to rank 0\n"
                                  "               Look at its host.\n"
                                  "  saved      nothing\n"));
  mpirun_is(tells_run + "touch -d yesterday run/error.json\nexit 75\n");
  EXPECT_THAT(run_launch(launch()).err,
              AllOf(HasSubstr("  exit code  75\n"), Not(HasSubstr("  error"))));
}

}  // namespace
}  // namespace trainer::test
