#include <strategies/comm/cluster.h>

#include <gtest/gtest.h>

#include <tests/support/thrown.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

using test::thrown;

void expect(const Environment& environment, const std::string& launcher, int rank, int size) {
  const Launch launch = find_launch(environment);
  EXPECT_EQ(launch.launcher, launcher);
  EXPECT_EQ(launch.rank, rank);
  EXPECT_EQ(launch.size, size);
}

TEST(Cluster, AProcessOfNoLauncherIsAlone) {
  expect({}, "", 0, 1);
  expect({{"PATH", "/usr/bin"}, {"RANK", "3"}}, "", 0, 1);
  expect({{"RANK", "0"}, {"WORLD_SIZE", "1"}}, "", 0, 1);
}

TEST(Cluster, OpenMPIsVariablesComeFirst) {
  expect({{"OMPI_COMM_WORLD_RANK", "1"},
          {"OMPI_COMM_WORLD_SIZE", "2"},
          {"PMIX_RANK", "5"},
          {"SLURM_STEP_ID", "0"},
          {"SLURM_STEP_NUM_TASKS", "7"},
          {"RANK", "8"},
          {"WORLD_SIZE", "9"}},
         "mpirun", 1, 2);
  expect({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}}, "mpirun", 0, 1);
}

TEST(Cluster, PMIxOfSrunTellsTheRankAndSLURMTheSize) {
  expect({{"PMIX_RANK", "3"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}}, "srun", 3, 4);
  expect({{"PMIX_RANK", "3"}}, "PMIX", 3, 0);
  expect({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}, "PMI", 1, 2);
}

TEST(Cluster, AShellOfSrunStartsProcessesThatAreAlone) {
  expect({{"PMIX_RANK", "0"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}, "", 0, 1);
  expect({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}, "", 0, 1);
}

TEST(Cluster, ABatchScriptAndTheShellOfSallocStartProcessesThatAreAlone) {
  expect({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "7"}}, "", 0, 1);
  expect({{"SLURM_STEP_ID", "4294967290"}, {"SLURM_STEP_NUM_TASKS", "4"}}, "", 0, 1);
}

TEST(Cluster, ProcessesThatCannotFindEachOtherAreRefused) {
  EXPECT_EQ(
      thrown<ConfigError>([] {
        find_launch({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}});
      }),
      "srun has started 4 processes (SLURM_STEP_NUM_TASKS) without telling them of each other. "
      "Start them with srun --mpi=pmix.");
  EXPECT_EQ(thrown<ConfigError>([] {
              find_launch({{"RANK", "1"}, {"WORLD_SIZE", "8"}});
            }),
            "environment: RANK=1 and WORLD_SIZE=8, as torchrun sets them: processes that it starts "
            "cannot find each other over MPI. Start them with mpirun -n 8 or srun --mpi=pmix -n 8, "
            "or unset both to start one alone.");
}

TEST(Cluster, WhatIsNoNumberIsNamed) {
  EXPECT_EQ(thrown<ConfigError>([] {
              find_launch({{"OMPI_COMM_WORLD_SIZE", "two"}});
            }),
            "environment: OMPI_COMM_WORLD_SIZE='two' is no number of processes. It is set by what "
            "starts them; unset it to start one alone.");
  for (const char* text : {"", "-1", "2x", " 2", "99999999999999999999"}) {
    EXPECT_THROW(find_launch({{"OMPI_COMM_WORLD_SIZE", text}}), ConfigError) << text;
  }
}

}  // namespace
}  // namespace trainer
