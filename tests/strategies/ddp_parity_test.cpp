// 1, 2 and 4 ranks arrive at the weights and metrics of one process on the same global batches.

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
      const auto out = folder(ranks);
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
      const auto result = Process(command, ".", {{"OMP_NUM_THREADS", "1"}}).wait(120);
      ASSERT_EQ(result.exit_code, 0) << ranks << " ranks\n" << result.out << result.err;
    }
  }
  static void TearDownTestSuite() { dir().reset(); }

  static stdfs::path folder(int ranks) { return dir()->path() / ("ranks" + std::to_string(ranks)); }
  static safetensors::File result(int ranks, const std::string& name) {
    return safetensors::File(folder(ranks) / (name + ".safetensors"));
  }

  /// Every parameter and metric of `name` against those of `reference` in one process.
  static void expect_same(const std::string& name, const std::string& reference, double tolerance) {
    const auto expected = result(0, reference);
    for (const int ranks : {1, 2, 4}) {
      if (ranks == 1 && name != reference) {
        continue;
      }
      const auto actual = result(ranks, name);
      ASSERT_EQ(actual.names(), expected.names());
      for (const auto& tensor : expected.names()) {
        const auto a = actual.tensor(tensor).to(torch::kFloat64);
        const auto b = expected.tensor(tensor).to(torch::kFloat64);
        const double difference = ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
        EXPECT_LE(difference, ranks == 1 ? 0 : tolerance)
            << name << " on " << ranks << " ranks: " << tensor;
      }
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
                                         "clip_value", "unused", "weighted", "by_hand", "in_turn",
                                         "stream", "sync_batchnorm", "digits",
                                         "digits_accumulation_clip", "gpt",
                                         "gpt_accumulation_clip"));

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
