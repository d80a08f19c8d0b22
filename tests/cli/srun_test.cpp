// Under a real SLURM, where this computer is part of one.

#include <tests/cli/cli_fixture.h>

#include <gmock/gmock.h>

namespace trainer::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class SrunTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    const auto probe = run({"srun", "--mpi=pmix", "-n", "2", "true"});
    if (probe.exit_code != 0) {
      GTEST_SKIP() << "srun --mpi=pmix -n 2 does not work here: " << probe.err;
    }
  }

  ProcessResult srun(const std::vector<std::string>& options,
                     const std::vector<std::string>& words = {}) const {
    std::vector<std::string> all = {"srun"};
    all.insert(all.end(), options.begin(), options.end());
    for (const auto& word : command({"validate", "--config", "base.yaml", "--trainer.logger=[]"})) {
      all.push_back(word);
    }
    all.insert(all.end(), words.begin(), words.end());
    return run(all, dir_.path());
  }
};

TEST_F(SrunTest, ProcessesOfAStepFindEachOther) {
  const auto result = srun({"--mpi=pmix", "-n", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, ContainsRegex("2 processes on [12] nodes? \\(Open MPI, srun\\)"));
  EXPECT_THAT(result.out, HasSubstr("val_loss"));
}

TEST_F(SrunTest, AStepWithoutPMIIsRefusedOnce) {
  const auto result = srun({"--mpi=none", "-n", "2"});
  EXPECT_EQ(result.exit_code, 2);
  const std::string error =
      "error: srun has started 2 processes (SLURM_STEP_NUM_TASKS) without telling them of each "
      "other. Start them with srun --mpi=pmix.\n";
  const size_t first = result.err.find(error);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(error, first + 1), std::string::npos) << result.err;
}

TEST_F(SrunTest, AStepOfOneTaskStartsProcessesItself) {
  const auto result = srun({"--mpi=pmix", "-n", "1"}, {"--trainer.devices=2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("2 processes on 1 node (Open MPI, mpirun)"));
}

}  // namespace
}  // namespace trainer::test
