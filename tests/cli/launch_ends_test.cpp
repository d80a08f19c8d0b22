#include <trainer/cli/launch_ends.h>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>

namespace trainer {
namespace {

JobEnd end(int exit_code, int stop_signal = 0, bool has_hosts = false) {
  return end_of_job({.exit_code = exit_code}, stop_signal, has_hosts);
}

TEST(LaunchEnds, LossesMayPass) {
  const std::pair<int, int> codes[] = {{75, 75},   {205, 75},  {110, 124}, {124, 124},
                                       {134, 134}, {137, 137}, {139, 139}};
  for (const auto& [of_mpirun, expected] : codes) {
    EXPECT_EQ(end(of_mpirun).exit_code, expected) << of_mpirun;
    EXPECT_TRUE(end(of_mpirun).may_pass) << of_mpirun;
  }
  EXPECT_EQ(end(137).cause, "a process was ended by SIGKILL (by hand, or for want of memory)");
  EXPECT_EQ(end(139).cause, "a process was ended by SIGSEGV");
  EXPECT_EQ(end(205).cause, "a host was lost: mpirun no longer reaches it");
}

TEST(LaunchEnds, MistakesAndRequestsDoNot) {
  for (const int exit_code : {0, 1, 2, 3, 66, 74, 85, 86, 130, 143}) {
    EXPECT_EQ(end(exit_code).exit_code, exit_code);
    EXPECT_FALSE(end(exit_code).may_pass) << exit_code;
  }
}

TEST(LaunchEnds, WithHostsMpirunMayEndWithTheExitCodeOfSsh) {
  for (const int exit_code : {9, 255}) {
    EXPECT_EQ(end(exit_code, 0, true).exit_code, 75);
    EXPECT_TRUE(end(exit_code, 0, true).may_pass);
  }
  EXPECT_EQ(end(2, 0, true).exit_code, 2) << "a code of ours stays";
}

TEST(LaunchEnds, AStoppedJobEndsAsItsSignalAsks) {
  const std::pair<int, int> signals[] = {
      {SIGINT, 130}, {SIGTERM, 143}, {SIGHUP, 143}, {SIGUSR1, 75}, {SIGUSR2, 75}};
  for (const auto& [signal, expected] : signals) {
    EXPECT_EQ(end(75, signal).exit_code, expected);
    EXPECT_EQ(end(128 + SIGUSR1, signal).exit_code, expected) << "there was nothing to save";
    EXPECT_EQ(end(0, signal).exit_code, 0) << "it was done before";
    EXPECT_EQ(end(74, signal).exit_code, 74) << "it could not save";
    const ProcessEnd forced{.exit_code = 1, .was_forced = true};
    EXPECT_EQ(end_of_job(forced, signal, false).exit_code, expected);
  }
}

TEST(LaunchEnds, TheErrorOfARankIsThatOfThisAttempt) {
  const test::TempDir run;
  const auto written_as = [&](const std::string& text) {
    const auto file = test::write_file(run / "error.json", text);
    return error_of_rank(run.path(), std::filesystem::last_write_time(file));
  };
  const std::string extra =
      R"("extraInfo": {"timestamp": "1700000000", "rank": 1, "world_size": 2, "host": "node1",)"
      R"( "step": 412, "exit_code": 1}}})";
  const std::string error = R"({"message": {"message": "no idea how to train", )" + extra;
  EXPECT_EQ(error_of_rank(run.path(), {}), "") << "there is none";
  EXPECT_EQ(written_as(error), "rank 1/2 (node1): no idea how to train");
  EXPECT_EQ(written_as(R"({"message": {"message": "rank 1/2 (node1, cuda:0): timeout", )" + extra),
            "rank 1/2 (node1, cuda:0): timeout")
      << "it is named once";
  for (const std::string damaged : {"", "{", "[]", R"({"message": "no idea"})"}) {
    EXPECT_EQ(written_as(damaged), "") << damaged;
  }
  const auto file = test::write_file(run / "error.json", error);
  const auto later = std::filesystem::last_write_time(file) + std::chrono::milliseconds(1);
  EXPECT_EQ(error_of_rank(run.path(), later), "") << "of an earlier attempt";
}

}  // namespace
}  // namespace trainer
