// What PyTorch Lightning 2.6.6 gets wrong, and this trainer must not
// (docs/differences_from_lightning.md).

#include <algorithm>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include <trainer/cli/run_config.h>
#include <trainer/core/error.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Counts how often its schedule is stepped.
class Scheduled : public ToyModule {
 public:
  explicit Scheduled(int64_t frequency) : frequency_(frequency) {}
  OptimizerConfig configure_optimizers() override {
    auto optimizer = std::make_unique<optim::AdamW>(parameters());
    auto schedule = std::make_unique<WarmupCosineLR>(*optimizer, 5, 200);
    scheduler = schedule.get();
    return {
        std::move(optimizer),
        {.scheduler = std::move(schedule), .interval = Interval::kStep, .frequency = frequency_}};
  }
  void on_train_end() override { count = scheduler->count(); }
  LRScheduler* scheduler = nullptr;
  int64_t count = 0;

 private:
  int64_t frequency_;
};

/// Lightning compares the frequency with the batch index: 6 steps of the schedule.
TEST(D5, FrequencyCountsOptimizerStepsAlsoWithAccumulation) {
  Scheduled module(/*frequency=*/2);
  ToyData data(/*num_samples=*/48, /*batch_size=*/4);  // 12 batches, 6 optimizer steps
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.accumulate_grad_batches = 2;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 6);
  EXPECT_EQ(module.count, 3);
}

/// The gradient of its loss is 1 in every batch.
class UnitGradient : public Module {
 public:
  UnitGradient() : weight(register_parameter("weight", torch::zeros({1}))) {}
  torch::Tensor training_step(const Batch&, int64_t) override { return weight.sum(); }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::SGD>(parameters(), optim::SGDOptions(1.0));
  }
  void on_before_optimizer_step(torch::optim::Optimizer&) override {
    gradients.push_back(weight.grad().item<double>());
  }
  torch::Tensor weight;
  std::vector<double> gradients;
};

/// Lightning divides by the full window always: 1.0 and 0.5.
TEST(D6, AShorterLastWindowIsDividedByWhatItHolds) {
  UnitGradient module;
  ToyData data(/*num_samples=*/24, /*batch_size=*/4);  // 6 equal batches
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.accumulate_grad_batches = 4;
  Trainer(config).fit(module, data);
  EXPECT_EQ(module.gradients, (std::vector<double>{1, 1}));
}

/// Lightning: AttributeError.
TEST(D7, ValidationByTimeWorksWithEarlyStopping) {
  class Slow : public ToyModule {
   public:
    torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return ToyModule::training_step(batch, batch_idx);
    }
    void on_validation_end() override { ++validations; }
    int64_t validations = 0;
  };
  Slow module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_epochs = 4;
  config.val_check_interval = Duration(0.001, Duration::Unit::kSeconds);
  config.callbacks = {use<EarlyStopping>({.monitor = "val_loss", .min_delta = 1e9, .patience = 3})};
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(module.validations, 4) << "the first sets the best, three more are the patience";
}

/// Lightning: 10 checkpoints with automatic optimization, none with manual.
TEST(D8, CheckpointsByTimeAreSavedUnderManualOptimizationToo) {
  class Slow : public ToyModule {
   public:
    explicit Slow(bool automatic) : automatic_(automatic) {}
    bool automatic_optimization() const override { return automatic_; }
    torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      auto loss = ToyModule::training_step(batch, batch_idx);
      if (!automatic_) {
        auto by_hand = optimizer();
        by_hand.zero_grad();
        manual_backward(loss);
        by_hand.step();
      }
      return loss;
    }

   private:
    bool automatic_;
  };
  for (const bool automatic : {true, false}) {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    Slow module(automatic);
    ToyData data;
    TrainerConfig config = quiet();
    config.max_steps = 10;
    config.callbacks = {use<ModelCheckpoint>(
        {.save_top_k = -1, .train_time_interval = Duration(0.001, Duration::Unit::kSeconds)})};
    Trainer(config).fit(module, data);
    const auto entries = std::filesystem::directory_iterator("runs/version_0/checkpoints");
    EXPECT_EQ(std::count_if(begin(entries), end(entries),
                            [](const auto& entry) { return entry.is_directory(); }),
              10)
        << (automatic ? "automatic" : "manual");
  }
}

class D9 : public testing::Test {
 protected:
  TrainerConfig read(const std::string& yaml) const {
    config::Diagnostics diagnostics;
    auto result =
        config::read<TrainerConfig>(config::parse_yaml(yaml, "x.yaml"), "trainer", diagnostics);
    diagnostics.throw_if_any();
    return result;
  }
};

/// Lightning's CLI makes 1 batch 100 %.
TEST_F(D9, OneBatchIsNotAllBatches) {
  for (const char* key : {"limit_train_batches", "limit_val_batches", "limit_test_batches",
                          "limit_predict_batches", "overfit_batches", "val_check_interval"}) {
    const auto one = read(std::string(key) + ": 1");
    const auto all = read(std::string(key) + ": 1.0");
    const auto text = [&](const TrainerConfig& config) {
      return config::write(config).find(key)->text();
    };
    EXPECT_EQ(text(one), "1") << key;
    EXPECT_EQ(text(all), "1.0") << key;
  }
  EXPECT_EQ(limited_batches(read("limit_train_batches: 1").limit_train_batches, 7, ""), 1);
  EXPECT_EQ(limited_batches(read("limit_train_batches: 1.0").limit_train_batches, 7, ""), 7);
}

TEST_F(D9, OneBatchIsNotAllBatchesOnTheCommandLine) {
  const auto project = tests_dir().parent_path();
  const auto steps = [&](const std::string& limit_train_batches) {
    const TempDir dir;
    std::filesystem::create_directory_symlink(project / "data", dir.path() / "data");
    const auto result =
        run({TRAINER_PROGRAM, "fit", "--config", project / "configs/digits.yaml",
             "--trainer.max_epochs=1", "--trainer.limit_train_batches=" + limit_train_batches},
            dir.path());
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const auto checkpoint = RunDirectory(dir.path() / "runs/version_0").last();
    EXPECT_TRUE(checkpoint) << result.err;
    return checkpoint ? CheckpointReader(*checkpoint).about().at("global_step").get<int64_t>() : -1;
  };
  EXPECT_EQ(steps("1"), 1);
  EXPECT_EQ(steps("1.0"), 40);
}

/// Lightning takes --trainer.max_epoch silently as --trainer.max_epochs.
TEST_F(D9, AbbreviationsAreUnknownKeys) {
  EXPECT_EQ(thrown<ConfigError>([&] { read("max_epoch: 7"); }),
            "x.yaml:1:1: trainer.max_epoch: unknown key. Did you mean 'max_epochs'?");
}

}  // namespace
}  // namespace trainer::test
