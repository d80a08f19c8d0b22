#pragma once
// Runs the `trainer` program on the digits in a folder of its own, so that paths in messages are
// the same every time.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {

class CliTest : public ::testing::Test {
 protected:
  /// A short run: 4 training batches and 2 validation batches in an epoch.
  void SetUp() override {
    write_file(dir_ / "base.yaml",
               "plugins: [digits]\n"
               "trainer:\n"
               "  max_epochs: 1\n"
               "  limit_train_batches: 4\n"
               "  limit_val_batches: 2\n"
               "  enable_progress_bar: false\n"
               "  enable_model_summary: false\n"
               "model: {class_path: DigitsMLP, init_args: {hidden: 16}}\n"
               "data: {class_path: DigitsData, init_args: {path: digits.csv.gz}}\n");
    std::filesystem::create_symlink(tests_dir().parent_path() / "data/digits.csv.gz",
                                    dir_ / "digits.csv.gz");
  }

  static std::vector<std::string> command(const std::vector<std::string>& words) {
    std::vector<std::string> all = {TRAINER_PROGRAM};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
  /// `trainer <words>` as it is.
  ProcessResult trainer(const std::vector<std::string>& words) const {
    return run(command(words), dir_.path());
  }
  /// `trainer <stage> --config base.yaml <words>`.
  ProcessResult base(const std::string& stage, const std::vector<std::string>& words = {}) const {
    std::vector<std::string> all = {stage, "--config", "base.yaml"};
    all.insert(all.end(), words.begin(), words.end());
    return trainer(all);
  }
  /// Trains and returns the checkpoint, relative to the folder.
  std::string train() const {
    const auto result = base("fit");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return "runs/version_0/checkpoints/epoch=0-step=4.ckpt";
  }

  TempDir dir_;
};

}  // namespace trainer::test
