#pragma once
// What the tests of faults share: a run of the `trainer` program that saves after every step.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/run_directory.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {

/// A folder in which `trainer fit` takes kSteps steps on small images of no meaning.
class Training {
 public:
  static constexpr int64_t kSteps = 42;

  Training() {
    std::string table;
    for (int sample = 0; sample < 50; ++sample) {
      for (int column = 0; column < 64; ++column) {
        table += std::to_string((sample * 7 + column * 3) % 17) + ",";
      }
      table += std::to_string(sample % 10) + "\n";
    }
    write_file(dir_ / "digits.csv", table);
    write_file(
        dir_ / "config.yaml",
        "plugins: [digits]\n"
        "trainer:\n"
        "  max_epochs: 6\n"
        "  log_every_n_steps: 1\n"
        "  logger: [CSVLogger, JSONLLogger]\n"
        "  enable_progress_bar: false\n"
        "  enable_model_summary: false\n"
        "  callbacks:\n"
        "    - class_path: ModelCheckpoint\n"
        "      init_args: {every_n_train_steps: 1, monitor: train_loss_step, save_top_k: 2}\n"
        "model: {class_path: DigitsMLP, init_args: {hidden: 64}}\n"
        "data: {class_path: DigitsData, init_args: {path: digits.csv, batch_size: 5}}\n");
  }

  const fs::Path& folder() const { return dir_.path(); }
  fs::Path checkpoints() const { return run().checkpoints(); }

  static std::vector<std::string> fit(const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {TRAINER_PROGRAM, "fit", "--config", "config.yaml"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  /// The steps in the last checkpoint, every file of which is checked; 0 without a checkpoint.
  int64_t last_step() const {
    const auto last = run().last();
    return last ? CheckpointReader(*last).about().at("global_step").get<int64_t>() : 0;
  }

  /// What does not depend on how often a run was interrupted, by name.
  std::map<std::string, std::string> outcome() const {
    std::map<std::string, std::string> files;
    for (const char* name :
         {"metrics.csv", "metrics.jsonl", "checkpoints/last", "checkpoints/best"}) {
      files[name] = read_file(run().path() / name);
    }
    for (const auto& entry : std::filesystem::directory_iterator(run().last().value())) {
      files[entry.path().filename().string()] = read_file(entry.path());
    }
    return files;
  }

 private:
  RunDirectory run() const { return RunDirectory(dir_ / "runs/version_0"); }

  TempDir dir_;
};

inline void expect_same_outcome(const Training& actual, const Training& expected) {
  const auto files = actual.outcome();
  const auto expected_files = expected.outcome();
  ASSERT_EQ(files.size(), expected_files.size());
  for (const auto& [name, content] : expected_files) {
    ASSERT_TRUE(files.contains(name)) << name;
    EXPECT_TRUE(files.at(name) == content) << name << " differs";
  }
}

}  // namespace trainer::test
