// A model whose parameters, gradients and optimizer state do not fit the memory that a process may
// have, one memory cgroup each: one rank is killed, four with slices of it train. Needs to be root,
// or else a cgroup that this user may divide.

#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

namespace stdfs = std::filesystem;

/// A cgroup for each rank, with a limit on its memory.
class MemoryLimits {
 public:
  MemoryLimits(int ranks, int64_t bytes) {
    const bool is_v1 = stdfs::exists("/sys/fs/cgroup/memory");
    root_ = stdfs::path(is_v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup") /
            ("trainer_test_" + std::to_string(::getpid()));
    std::error_code error;
    stdfs::create_directory(root_, error);
    if (!is_v1) {
      std::ofstream(root_.parent_path() / "cgroup.subtree_control") << "+memory";
      std::ofstream(root_ / "cgroup.subtree_control") << "+memory";
    }
    for (int r = 0; r < ranks; ++r) {
      const auto group = root_ / std::to_string(r);
      stdfs::create_directory(group, error);
      std::ofstream limit(group / (is_v1 ? "memory.limit_in_bytes" : "memory.max"));
      limit << bytes << std::flush;
      is_there_ = limit.good();
      groups_.push_back(group);
    }
  }
  MemoryLimits(const MemoryLimits&) = delete;
  MemoryLimits& operator=(const MemoryLimits&) = delete;
  ~MemoryLimits() {
    std::error_code error;
    for (const auto& group : groups_) {
      stdfs::remove(group, error);
    }
    stdfs::remove(root_, error);
  }

  bool is_there() const { return is_there_; }
  /// A shell command that puts a rank into its own and then is `program` with the arguments.
  std::vector<std::string> limited(const std::vector<std::string>& program) const {
    std::vector<std::string> command = {
        "bash", "-c",
        "echo $$ > " + root_.string() + "/${OMPI_COMM_WORLD_RANK:-0}/cgroup.procs && exec \"$@\"",
        "limited"};
    command.insert(command.end(), program.begin(), program.end());
    return command;
  }

 private:
  stdfs::path root_;
  std::vector<stdfs::path> groups_;
  bool is_there_ = false;
};

/// 25 M parameters: 100 MB, and 400 with gradients and AdamW's state.
std::vector<std::string> fit(const std::string& strategy, const stdfs::path& folder) {
  return {TRAINER_PROGRAM,
          "fit",
          "--config",
          "configs/gpt_bytes.yaml",
          "--trainer.strategy=" + strategy,
          "--trainer.max_steps=3",
          "--trainer.limit_val_batches=0",
          "--trainer.enable_checkpointing=false",
          "--model.init_args.num_layers=8",
          "--model.init_args.dim=512",
          "--model.init_args.num_heads=8",
          "--model.init_args.block_size=32",
          "--model.init_args.sample_tokens=1",
          "--data.init_args.block_size=32",
          "--data.init_args.batch_size=1",
          "--trainer.default_root_dir=" + folder.string()};
}

TEST(MemoryLimit, WhatDoesNotFitOneRankTrainsOnFour) {
  const MemoryLimits limits(/*ranks=*/4, int64_t{340} << 20);
  if (!limits.is_there()) {
    GTEST_SKIP() << "no cgroup of memory can be made here";
  }
  const TempDir dir;
  const auto here = tests_dir().parent_path();
  const std::map<std::string, std::string> environment = {{"OMP_NUM_THREADS", "1"}};
  const auto alone =
      Process(limits.limited(fit("auto", dir.path())), here, environment).wait(/*seconds=*/120);
  EXPECT_EQ(alone.exit_code, 128 + SIGKILL) << alone.err;

  std::vector<std::string> command = {
      TRAINER_MPIRUN, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "4"};
  const auto ranks = limits.limited(fit("fsdp", dir.path()));
  command.insert(command.end(), ranks.begin(), ranks.end());
  const auto together = Process(command, here, environment).wait(/*seconds=*/120);
  EXPECT_EQ(together.exit_code, 0) << together.out << together.err;
}

}  // namespace
}  // namespace trainer::test
