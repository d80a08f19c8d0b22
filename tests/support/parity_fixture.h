#pragma once
// Programs that train the same on so many ranks, compared tensor by tensor.

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/checkpoint/safetensors.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {

/// Each case of ddp_cases leaves its weights and metrics in a file; folders are those of a suite.
class ParityFixture : public testing::Test {
 public:
  using Environment = std::map<std::string, std::string>;
  using Folder = std::filesystem::path;

 protected:
  static void SetUpTestSuite() { dir() = std::make_unique<TempDir>(); }
  static void TearDownTestSuite() { dir().reset(); }

  /// Runs the cases, all for none, on so many ranks; 0: without mpirun.
  static void start(int ranks, const Folder& out, const Environment& environment = {},
                    const std::vector<std::string>& cases = {}) {
    const auto result = result_of(ranks, out, environment, cases);
    ASSERT_EQ(result.exit_code, 0) << ranks << " ranks\n" << result.out << result.err;
  }
  static ProcessResult result_of(int ranks, const Folder& out, Environment environment,
                                 const std::vector<std::string>& cases) {
    std::filesystem::create_directories(out);
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
    return Process(command, ".", environment).wait(120);
  }

  static Folder folder(int ranks) { return dir()->path() / ("ranks" + std::to_string(ranks)); }
  static safetensors::File result_in(const Folder& folder, const std::string& name) {
    return safetensors::File(folder / (name + ".safetensors"));
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

 private:
  static std::unique_ptr<TempDir>& dir() {
    static std::unique_ptr<TempDir> instance;
    return instance;
  }
};

}  // namespace trainer::test
