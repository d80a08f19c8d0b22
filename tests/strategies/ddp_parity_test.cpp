// 1, 2 and 4 ranks arrive at the weights and metrics of one process on the same global batches, by
// DDP and by FSDP.

#include <cmath>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/checkpoint/safetensors.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

namespace stdfs = std::filesystem;

/// What ddp_cases wrote when started with so many ranks; 0: without mpirun.
class DDPParity : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir() = std::make_unique<TempDir>();
    for (const int ranks : {0, 1, 2, 4}) {
      start(ranks, folder(ranks));
    }
    for (const int ranks : {1, 2, 4}) {
      start(ranks, folder(ranks) / "fsdp", {{"DDP_CASES_STRATEGY", "fsdp"}}, sharded_cases());
    }
  }
  static void TearDownTestSuite() { dir().reset(); }

  static void start(int ranks, const stdfs::path& out,
                    std::map<std::string, std::string> environment = {},
                    const std::vector<std::string>& cases = {}) {
    stdfs::create_directories(out);
    std::vector<std::string> command;
    if (ranks > 0) {
      command = {TRAINER_MPIRUN,
                 "--allow-run-as-root",
                 "--oversubscribe",
                 "--bind-to",
                 "none",
                 "--mca",
                 "mpi_yield_when_idle",
                 "1",
                 "-n",
                 std::to_string(ranks)};
    }
    command.insert(command.end(), {TRAINER_DDP_CASES, out.string()});
    command.insert(command.end(), cases.begin(), cases.end());
    environment["OMP_NUM_THREADS"] = "1";
    const auto result = Process(command, ".", environment).wait(120);
    ASSERT_EQ(result.exit_code, 0) << ranks << " ranks\n" << result.out << result.err;
  }

  /// Those that make sense with slices.
  static const std::vector<std::string>& sharded_cases() {
    static const std::vector<std::string> all = {"plain",
                                                 "uneven",
                                                 "one_left",
                                                 "accumulation",
                                                 "clip_norm",
                                                 "clip_value",
                                                 "unused",
                                                 "weighted",
                                                 "two_steps",
                                                 "by_hand",
                                                 "in_turn",
                                                 "stream",
                                                 "sync_batchnorm",
                                                 "digits",
                                                 "gpt",
                                                 "checkpointed",
                                                 "gpt_checkpointed",
                                                 "float32",
                                                 "bf16_mixed",
                                                 "fp16_mixed",
                                                 "digits_accumulation_clip",
                                                 "gpt_accumulation_clip"};
    return all;
  }
  static stdfs::path folder(int ranks) { return dir()->path() / ("ranks" + std::to_string(ranks)); }
  static safetensors::File result(int ranks, const std::string& name) {
    return safetensors::File(folder(ranks) / (name + ".safetensors"));
  }

  /// Of the tensors whose names begin with `prefix`.
  static void expect_same_tensors(const safetensors::File& actual,
                                  const safetensors::File& expected, double tolerance,
                                  const std::string& what, const std::string& prefix = "") {
    ASSERT_EQ(actual.names(), expected.names());
    for (const auto& tensor : expected.names()) {
      if (!tensor.starts_with(prefix)) {
        continue;
      }
      const auto a = actual.tensor(tensor).to(torch::kFloat64);
      const auto b = expected.tensor(tensor).to(torch::kFloat64);
      const double difference = ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
      // That one is the float32 mean over each batch, and the batches differ.
      const double allowed = tensor == "metric/val_acc" ? std::max(tolerance, 1e-7) : tolerance;
      EXPECT_LE(difference, allowed) << what << ": " << tensor;
    }
  }

  /// Every parameter and metric of `name` against those of `reference` in one process.
  static void expect_same(const std::string& name, const std::string& reference, double tolerance) {
    const auto expected = result(0, reference);
    for (const int ranks : {1, 2, 4}) {
      if (ranks == 1 && name != reference) {
        continue;
      }
      expect_same_tensors(result(ranks, name), expected, ranks == 1 ? 0 : tolerance,
                          name + " on " + std::to_string(ranks) + " ranks");
    }
  }

 private:
  static std::unique_ptr<TempDir>& dir() {
    static std::unique_ptr<TempDir> instance;
    return instance;
  }
};

class DDPParityInFloat64 : public DDPParity, public testing::WithParamInterface<const char*> {};

TEST_P(DDPParityInFloat64, EqualsOneProcess) { expect_same(GetParam(), GetParam(), 1e-12); }

INSTANTIATE_TEST_SUITE_P(Cases, DDPParityInFloat64,
                         testing::Values("plain", "uneven", "one_left", "accumulation", "clip_norm",
                                         "clip_value", "unused", "weighted", "by_hand", "two_steps",
                                         "in_turn", "stream", "sync_batchnorm", "digits",
                                         "digits_accumulation_clip", "gpt",
                                         "gpt_accumulation_clip"));

TEST_F(DDPParity, ShardedRanksEqualOneProcess) {
  for (const auto& name : sharded_cases()) {
    const double tolerance = name == "float32"      ? 1e-5
                             : name == "bf16_mixed" ? 3e-2
                             : name == "fp16_mixed" ? 1e-2
                                                    : 1e-12;
    for (const int ranks : {1, 2, 4}) {
      expect_same_tensors(safetensors::File(folder(ranks) / "fsdp" / (name + ".safetensors")),
                          result(0, name), ranks == 1 ? 0 : tolerance,
                          name + " sharded over " + std::to_string(ranks) + " ranks");
    }
  }
}

TEST_F(DDPParity, AShardedRunIsResumedOnAnotherNumberOfRanksAndByAnotherStrategy) {
  const std::vector<std::string> cases = {"accumulation", "clip_norm"};
  const auto stopped = folder(4) / "fsdp" / "stopped";
  start(4, stopped, {{"DDP_CASES_STOP", "23"}, {"DDP_CASES_STRATEGY", "fsdp"}}, cases);
  for (const std::string strategy : {"fsdp", "auto"}) {
    for (const int after : {1, 2, 4}) {
      const auto out = stopped / (strategy + std::to_string(after));
      start(after, out, {{"DDP_CASES_RESUME", stopped.string()}, {"DDP_CASES_STRATEGY", strategy}},
            cases);
      for (const auto& name : cases) {
        const bool is_same = strategy == "fsdp" && after == 4;
        const std::string file = name + ".safetensors";
        expect_same_tensors(safetensors::File(out / file),
                            safetensors::File((is_same ? folder(4) / "fsdp" : folder(0)) / file),
                            is_same ? 0 : 1e-12,
                            name + " by " + strategy + " on " + std::to_string(after),
                            is_same ? "" : "weight/");
      }
    }
  }
}

TEST_F(DDPParity, AResumeOnAnotherNumberOfRanksGoesOnWithTheSameBatches) {
  const std::vector<std::string> cases = {"accumulation", "plain", "stream", "uneven"};
  for (const int before : {1, 2, 4}) {
    const auto stopped = folder(before) / "stopped";
    start(before, stopped, {{"DDP_CASES_STOP", "23"}}, cases);  // within an epoch
    for (const int after : {1, 2, 4}) {
      const auto out = stopped / std::to_string(after);
      start(after, out, {{"DDP_CASES_RESUME", stopped.string()}}, cases);
      for (const auto& name : cases) {
        const std::string file = name + ".safetensors";
        // The epoch's metrics know nothing of ranks that are gone: compare what training made.
        const bool is_same = before == after;
        expect_same_tensors(
            safetensors::File(out / file), safetensors::File(folder(is_same ? before : 0) / file),
            is_same ? 0 : 1e-12,
            name + " from " + std::to_string(before) + " to " + std::to_string(after) + " ranks",
            is_same ? "" : "weight/");
      }
    }
  }
}

TEST_F(DDPParity, BlocksThatRunAgainInTheBackwardPassEqualOthers) {
  expect_same_tensors(result(0, "gpt_checkpointed"), result(0, "gpt"), 0, "gpt");
  expect_same_tensors(result(0, "checkpointed"), result(0, "blocks"), 0, "blocks");
  expect_same("gpt_checkpointed", "gpt", 1e-12);
  expect_same("checkpointed", "blocks", 1e-12);
}
TEST_F(DDPParity, StaticGraphEqualsADynamicOne) { expect_same("static_graph", "plain", 1e-12); }
TEST_F(DDPParity, BucketsOfOneParameterEqualLargeOnes) {
  expect_same("small_buckets", "unused", 1e-12);
}
TEST_F(DDPParity, Float32EqualsOneProcessUpToTheOrderOfSums) {
  expect_same("float32", "float32", 1e-5);
}
TEST_F(DDPParity, MixedPrecisionEqualsOneProcessUpToItsRounding) {
  expect_same("bf16_mixed", "bf16_mixed", 3e-2);
  expect_same("fp16_mixed", "fp16_mixed", 1e-2);
}

}  // namespace
}  // namespace trainer::test
