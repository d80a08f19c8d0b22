#include <callbacks/learning_rate_monitor.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <tests/callbacks/callback_fixture.h>
#include <trainer/core/error.h>
#include <trainer/optim/adamw.h>
#include <trainer/optim/lr_schedules.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

using test::make_loader;
using test::quiet;
using test::thrown;

/// Keeps the rows it is given.
class RecordingLogger : public Logger {
 public:
  void setup(const fs::Path&) override { rows.clear(); }
  void log_metrics(const Metrics& metrics, int64_t step) override {
    rows.emplace_back(step, std::map<std::string, double>(metrics.begin(), metrics.end()));
  }
  static inline std::vector<std::pair<int64_t, std::map<std::string, double>>> rows = {};
};

/// An optimizer of a user, which tells nothing about its options.
class Walk : public torch::optim::Optimizer, public StatefulOptimizer {
 public:
  explicit Walk(std::vector<torch::Tensor> parameters)
      : Optimizer({torch::optim::OptimizerParamGroup(std::move(parameters))},
                  std::make_unique<torch::optim::SGDOptions>(0.25)) {}
  torch::Tensor step(LossClosure closure) override { return closure(); }
  OptimizerState optimizer_state() const override { return {.groups = {{{"lr", 0.25}}}}; }
  void load_optimizer_state(const OptimizerState&) override {}
};

/// A module whose optimizer is made by the test.
class LitModule : public test::ScriptedModule {
 public:
  using Make = std::function<OptimizerConfig(std::vector<torch::Tensor>)>;
  explicit LitModule(Make make) : make_(std::move(make)) {
    second = register_parameter("second", torch::ones({1}));
  }
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    return ScriptedModule::training_step(batch, batch_idx) + second.sum();
  }
  OptimizerConfig configure_optimizers() override { return make_(parameters()); }
  torch::Tensor second;

 private:
  Make make_;
};

OptimizerConfig halving_sgd(const std::vector<torch::Tensor>& parameters, Interval interval) {
  auto sgd = std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(1.0));
  auto scheduler = std::make_unique<StepLR>(*sgd, /*step_size=*/1, /*gamma=*/0.5);
  return {std::move(sgd), {.scheduler = std::move(scheduler), .interval = interval}};
}

/// The values of `name` by step in what a fit of 2 epochs with 6 batches logged.
std::map<int64_t, double> logged(const std::string& name) {
  std::map<int64_t, double> values;
  for (const auto& [step, row] : RecordingLogger::rows) {
    if (const auto found = row.find(name); found != row.end()) {
      values[step] = found->second;
    }
  }
  return values;
}

void fit(const LearningRateMonitor::Init& init, LitModule module, int64_t log_every_n_steps = 1,
         int64_t accumulate_grad_batches = 1) {
  TrainerConfig config = quiet();
  config.max_epochs = 2;
  config.log_every_n_steps = log_every_n_steps;
  config.accumulate_grad_batches = accumulate_grad_batches;
  config.logger = {use<RecordingLogger>()};
  config.callbacks = {use<LearningRateMonitor>(init)};
  config.default_root_dir = ::testing::TempDir() + "learning_rate_monitor_test";
  Trainer(config).fit(module, make_loader(6));
  std::filesystem::remove_all(config.default_root_dir);
}

using Values = std::map<int64_t, double>;

TEST(LearningRateMonitor, LogsTheRateThatAStepIsTakenWithInThatStepsRow) {
  fit({}, LitModule([](auto p) { return halving_sgd(p, Interval::kStep); }),
      /*log_every_n_steps=*/4);
  // Steps 3, 7 and 11 are logged; step n is taken with 0.5^n.
  EXPECT_EQ(logged("lr-SGD"), (Values{{3, 0.125}, {7, 0.0078125}, {11, 0.00048828125}}));
  for (const auto& [step, row] : RecordingLogger::rows) {
    EXPECT_EQ(row.contains("lr-SGD"), row.contains("train_loss_step")) << "step " << step;
  }
}

TEST(LearningRateMonitor, CountsStepsNotBatchesUnderAccumulation) {
  fit({}, LitModule([](auto p) { return halving_sgd(p, Interval::kStep); }),
      /*log_every_n_steps=*/2,
      /*accumulate_grad_batches=*/3);
  EXPECT_EQ(logged("lr-SGD"), (Values{{1, 0.5}, {3, 0.125}}));
}

TEST(LearningRateMonitor, LogsOnceAnEpochWhenAsked) {
  fit({.logging_interval = "epoch"},
      LitModule([](auto p) { return halving_sgd(p, Interval::kStep); }));
  // In the row of the epoch, whose step is its last: the rate that the epoch began with.
  EXPECT_EQ(logged("lr-SGD"), (Values{{5, 1.0}, {11, 0.015625}}));
}

TEST(LearningRateMonitor, LogsTheRateOfEachEpochOfAnEpochSchedule) {
  fit({}, LitModule([](auto p) { return halving_sgd(p, Interval::kEpoch); }),
      /*log_every_n_steps=*/3);
  EXPECT_EQ(logged("lr-SGD"), (Values{{2, 1.0}, {5, 1.0}, {8, 0.5}, {11, 0.5}}));
}

TEST(LearningRateMonitor, LogsWithoutAScheduleToo) {
  fit({.logging_interval = "step"}, LitModule([](auto p) -> OptimizerConfig {
        return std::make_unique<optim::AdamW>(p, optim::AdamWOptions(0.125));
      }),
      /*log_every_n_steps=*/6);
  EXPECT_EQ(logged("lr-AdamW"), (Values{{5, 0.125}, {11, 0.125}}));
}

TEST(LearningRateMonitor, NumbersTheGroupsOfAnOptimizerThatHasSeveral) {
  const LearningRateMonitor::Init init = {.log_momentum = true, .log_weight_decay = true};
  fit(init, LitModule([](auto p) -> OptimizerConfig {
        using torch::optim::SGDOptions;
        std::vector<torch::optim::OptimizerParamGroup> groups;
        groups.emplace_back(std::vector<torch::Tensor>{p[0]}, std::make_unique<SGDOptions>(0.5));
        groups.emplace_back(
            std::vector<torch::Tensor>{p[1]},
            std::make_unique<SGDOptions>(SGDOptions(0.25).momentum(0.75).weight_decay(0.125)));
        return std::make_unique<torch::optim::SGD>(groups, SGDOptions(1.0));
      }),
      /*log_every_n_steps=*/12);
  std::map<std::string, double> expected = {
      {"lr-SGD/pg1", 0.5},
      {"lr-SGD/pg2", 0.25},
      {"lr-SGD/pg1-momentum", 0},
      {"lr-SGD/pg2-momentum", 0.75},
      {"lr-SGD/pg1-weight_decay", 0},
      {"lr-SGD/pg2-weight_decay", 0.125},
  };
  std::map<std::string, double> found;
  for (const auto& [step, row] : RecordingLogger::rows) {
    for (const auto& [name, value] : row) {
      if (name.starts_with("lr-")) {
        EXPECT_EQ(step, 11);
        found[name] = value;
      }
    }
  }
  EXPECT_EQ(found, expected);
}

TEST(LearningRateMonitor, TakesTheFirstBetaForMomentum) {
  fit({.log_momentum = true}, LitModule([](auto p) -> OptimizerConfig {
        return std::make_unique<optim::AdamW>(p, optim::AdamWOptions(0.1).betas({0.75, 0.5}));
      }),
      /*log_every_n_steps=*/12);
  EXPECT_EQ(logged("lr-AdamW-momentum"), (Values{{11, 0.75}}));
  EXPECT_TRUE(logged("lr-AdamW-weight_decay").empty());
}

TEST(LearningRateMonitor, LogsNothingWhereNoStepIsLogged) {
  fit({}, LitModule([](auto p) { return halving_sgd(p, Interval::kStep); }),
      /*log_every_n_steps=*/0);
  EXPECT_FALSE(RecordingLogger::rows.empty());  // the rows of the epochs
  EXPECT_TRUE(logged("lr-SGD").empty());
}

TEST(LearningRateMonitor, LogsZeroForWhatAnOptimizerDoesNotTell) {
  const LitModule walking([](auto p) -> OptimizerConfig { return std::make_unique<Walk>(p); });
  fit({.log_momentum = true, .log_weight_decay = true}, walking, /*log_every_n_steps=*/12);
  EXPECT_EQ(logged("lr-Walk"), (Values{{11, 0.25}}));
  EXPECT_EQ(logged("lr-Walk-momentum"), (Values{{11, 0.0}}));
  EXPECT_EQ(logged("lr-Walk-weight_decay"), (Values{{11, 0.0}}));
}

TEST(LearningRateMonitor, RefusesAnUnknownInterval) {
  const auto message =
      thrown<ConfigError>([] { use<LearningRateMonitor>({.logging_interval = "batch"}).create(); });
  EXPECT_NE(message.find("logging_interval"), std::string::npos) << message;
  EXPECT_NE(message.find("step, epoch"), std::string::npos) << message;
}

}  // namespace
}  // namespace trainer
