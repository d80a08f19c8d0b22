#include <strategies/comm/cores.h>

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

#include <strategies/comm/launcher.h>

namespace trainer {
namespace {

std::vector<Core> cores(int count) {
  std::vector<Core> result;
  for (int i = 0; i < count; ++i) {
    result.push_back({i, i + count});
  }
  return result;
}

TEST(Cores, EveryCoreGoesToOneProcess) {
  for (size_t count : {1, 2, 3, 5, 8}) {
    std::vector<Core> joined;
    for (size_t i = 0; i < count; ++i) {
      const auto share = share_of(cores(8), i, count);
      EXPECT_GE(share.size(), 8 / count);
      EXPECT_LE(share.size(), 8 / count + 1);
      joined.insert(joined.end(), share.begin(), share.end());
    }
    EXPECT_EQ(joined, cores(8)) << count << " processes";
  }
}

TEST(Cores, MoreProcessesThanCoresGetNoneOfTheirOwn) {
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(share_of(cores(2), i, 3).empty());
  }
}

TEST(Cores, BindingLeavesTheCoresItIsGiven) {
  std::thread([] {  // for this thread alone
    const auto all = allowed_cores();
    ASSERT_FALSE(all.empty());
    const std::vector<Core> last = {all.back()};
    bind_to(last);
    EXPECT_EQ(allowed_cores(), last);
    bind_to({});
    EXPECT_EQ(allowed_cores(), last);
    EXPECT_EQ(to_string(last).find(std::to_string(all.back().front())), 0u);
  })
      .join();
}

TEST(Launcher, StartsProcessesOnThisComputerAlone) {
  const std::vector<std::string> expected = {"/usr/bin/mpirun",
                                             "--allow-run-as-root",
                                             "--bind-to",
                                             "none",
                                             "--host",
                                             "localhost:2",
                                             "-n",
                                             "2",
                                             "--mca",
                                             "ras",
                                             "^slurm,tm,lsf,gridengine,alps",
                                             "--mca",
                                             "plm",
                                             "isolated",
                                             "/bin/program",
                                             "fit",
                                             ""};
  const Job job{.num_ranks = 2, .arguments = {"fit", ""}};
  EXPECT_EQ(mpirun_command("/usr/bin/mpirun", job, false, "/bin/program"), expected);
  const auto crowded = mpirun_command("mpirun", {.num_ranks = 9}, true, "program");
  EXPECT_NE(std::find(crowded.begin(), crowded.end(), "mpi_yield_when_idle"), crowded.end());
}

TEST(Launcher, OnSeveralHostsItNoticesTheLossOfOneAndPassesVariablesOn) {
  ::setenv("NCCL_DEBUG", "WARN", 1);
  const Job job{.num_ranks = 5, .hosts = {{"a", 4}, {"b", 1}}, .arguments = {"fit"}};
  const auto command = mpirun_command("mpirun", job, false, "program");
  const auto contains = [&](const std::vector<std::string>& words) {
    return std::search(command.begin(), command.end(), words.begin(), words.end()) != command.end();
  };
  EXPECT_TRUE(contains({"--host", "a:4,b:1", "-n", "5"}));
  EXPECT_TRUE(contains({"--mca", "oob_tcp_keepalive_time", "1"}));
  EXPECT_TRUE(contains({"-x", "NCCL_DEBUG"}));
  EXPECT_FALSE(contains({"isolated"})) << "other computers need a daemon";
  EXPECT_EQ(command[command.size() - 2], "program");
}

}  // namespace
}  // namespace trainer
