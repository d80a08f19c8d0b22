#include <strategies/comm/cores.h>

#include <sched.h>

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
                                             "plm",
                                             "isolated",
                                             "--mca",
                                             "ras",
                                             "^slurm,tm,lsf,gridengine,alps",
                                             "/bin/program",
                                             "fit",
                                             ""};
  EXPECT_EQ(mpirun_command("/usr/bin/mpirun", 2, false, "/bin/program", {"fit", ""}), expected);
  const auto crowded = mpirun_command("mpirun", 9, true, "program", {});
  EXPECT_NE(std::find(crowded.begin(), crowded.end(), "mpi_yield_when_idle"), crowded.end());
}

}  // namespace
}  // namespace trainer
