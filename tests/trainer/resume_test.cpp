// A resumed run is the run that never stopped, byte for byte: weights, optimizer, schedule, random
// numbers, data position, metrics, and the files they are written to.

#include <gtest/gtest.h>

#include <tests/support/raise_at.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

struct Case {
  const char* name;
  int64_t stop_at;  // optimizer steps before the interruption
  int64_t accumulate = 1;
  CheckInterval val_check_interval = 1.0;
  bool by_signal = false;
  bool in_validation = false;
};

constexpr int64_t kSteps = 60;
const RunDirectory kRun("runs/version_0");

void train(const Case& c, int64_t max_steps, const std::optional<std::string>& ckpt_path,
           uint64_t seed, const RaiseAt::Init& raise_at = {}) {
  seed_everything(seed);
  ToyModule module;
  ToyData data;
  TrainerConfig config;
  config.max_steps = max_steps;
  config.accumulate_grad_batches = c.accumulate;
  config.val_check_interval = c.val_check_interval;
  config.log_every_n_steps = 3;
  config.gradient_clip_val = 1.0;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  config.callbacks = {
      use<EarlyStopping>({.monitor = "val_loss", .patience = 1000}), "LearningRateMonitor",
      use<ModelCheckpoint>({.monitor = "val_loss", .save_top_k = 2}), use<RaiseAt>(raise_at)};
  Trainer trainer(config);
  trainer.fit(module, data, ckpt_path);
}

/// Every file that must be equal, by a name that does not depend on the run.
std::map<std::string, std::string> outcome() {
  std::map<std::string, std::string> files;
  for (const char* name :
       {"metrics.csv", "metrics.jsonl", "checkpoints/last", "checkpoints/best"}) {
    files[name] = read_file(kRun.path() / name);
  }
  for (const auto& entry : std::filesystem::directory_iterator(*kRun.last())) {
    const std::string name = entry.path().filename().string();
    // The settings differ on purpose: the resumed run was told to raise nothing.
    if (name != "config.yaml" && name != "manifest.json") {
      files[name] = read_file(entry.path());
    }
  }
  return files;
}

class Resume : public testing::TestWithParam<Case> {};

TEST_P(Resume, EqualsNeverStoppedByteForByte) {
  const Case& c = GetParam();
  std::map<std::string, std::string> expected;
  {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    train(c, kSteps, {}, 7);
    expected = outcome();
  }
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  if (c.in_validation) {
    train(c, kSteps, {}, 7, {.validation_after = c.stop_at});
  } else if (c.by_signal) {
    train(c, kSteps, {}, 7, {.steps = c.stop_at});
  } else {
    train(c, c.stop_at, {}, 7);
  }
  const auto state = nlohmann::json::parse(read_file(*kRun.last() / "trainer_state.json"));
  ASSERT_LT(state.at("loop").at("global_step"), kSteps) << "the interruption";
  train(c, kSteps, "last", /*another seed, other weights:*/ 99);
  const auto actual = outcome();
  EXPECT_FALSE(std::filesystem::exists("runs/version_1"))
      << "a resumed run goes on in its own folder";
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, content] : expected) {
    ASSERT_TRUE(actual.contains(name)) << name;
    EXPECT_TRUE(actual.at(name) == content) << name << " differs";
    if (name.ends_with("csv") || name.ends_with("json")) {
      EXPECT_EQ(actual.at(name), content);
    }
  }
  EXPECT_EQ(expected.size(), 7U);  // weights, optimizer, state, two metrics files, two pointers
}

TEST(ResumeOfAFinishedRun, LeavesItsMetricsAsTheyWere) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  train({.name = "", .stop_at = 0}, /*max_steps, within an epoch:*/ 20, {}, 7);
  const auto finished = outcome();
  train({.name = "", .stop_at = 0}, 20, "last", 99);
  for (const char* name : {"metrics.csv", "metrics.jsonl", "model.safetensors"}) {
    EXPECT_EQ(outcome().at(name), finished.at(name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Interruptions, Resume,
    testing::Values(
        Case{.name = "InFirstEpoch", .stop_at = 1}, Case{.name = "MidEpoch", .stop_at = 20},
        Case{.name = "AtEpochEnd", .stop_at = 26}, Case{.name = "JustAfterEpochEnd", .stop_at = 27},
        Case{.name = "LateInTheRun", .stop_at = 59},
        Case{.name = "WithAccumulation", .stop_at = 7, .accumulate = 3},
        Case{.name = "WithAccumulationAtEpochEnd", .stop_at = 10, .accumulate = 3},
        Case{.name = "AtMidEpochValidation", .stop_at = 10, .val_check_interval = int64_t{5}},
        Case{.name = "BetweenMidEpochValidations", .stop_at = 12, .val_check_interval = int64_t{5}},
        Case{.name = "BySignal", .stop_at = 17, .by_signal = true},
        Case{.name = "BySignalInAccumulation",
             .stop_at = 8,
             .accumulate = 4,
             .val_check_interval = 0.3,
             .by_signal = true},
        Case{.name = "BySignalBeforeValidation", .stop_at = 26, .by_signal = true},
        Case{.name = "BySignalInValidation", .stop_at = 26, .in_validation = true},
        Case{.name = "BySignalInMidEpochValidation",
             .stop_at = 12,
             .val_check_interval = int64_t{5},
             .in_validation = true},
        Case{.name = "BySignalInTheLastValidation",
             .stop_at = 50,
             .val_check_interval = 0.5,
             .in_validation = true}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace trainer::test
