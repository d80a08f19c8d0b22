// Modules that optimize by hand, with one optimizer and with several.

#include <trainer/manual_optimization.h>

#include <gtest/gtest.h>

#include <trainer/precision.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// ToyModule's training written out by hand.
class ByHand : public ToyModule {
 public:
  bool automatic_optimization() const override { return false; }
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    auto step_optimizer = optimizer();
    auto loss = ToyModule::training_step(batch, batch_idx);
    step_optimizer.zero_grad();
    manual_backward(loss);
    if (clip_norm > 0) {
      step_optimizer.clip_by_norm(clip_norm);
    }
    step_optimizer.step();
    lr_schedulers().at(0)->step();
    return loss;
  }
  double clip_norm = 0;
};

TrainerConfig steps(int64_t max_steps) {
  TrainerConfig config = quiet();
  config.max_steps = max_steps;
  return config;
}

TEST(ManualOptimization, EqualsTheAutomaticOneBitForBit) {
  for (const auto& precision : Precision::names()) {
    const auto train = [&](Module& module, std::optional<double> clip_norm) {
      seed_everything(3);
      ToyData data;
      TrainerConfig config = steps(30);
      config.precision = precision;
      config.gradient_clip_val = clip_norm;
      Trainer trainer(config);
      trainer.fit(module, data);
      EXPECT_EQ(trainer.progress().global_step, 30);
      return flat_weights(module);
    };
    for (const double clip_norm : {0.0, 0.1}) {
      seed_everything(1);
      ToyModule automatic;
      seed_everything(1);
      ByHand by_hand;
      by_hand.clip_norm = clip_norm;
      const auto setting = clip_norm > 0 ? std::optional(clip_norm) : std::nullopt;
      EXPECT_TRUE(torch::equal(train(automatic, setting), train(by_hand, std::nullopt)))
          << precision << ", clip " << clip_norm;
    }
  }
}

/// Autocast keeps casts of weights: a step must not leave old ones to the next pass of its batch.
TEST(ManualOptimization, SeesTheNewWeightsAfterEachStepOfABatch) {
  class TwoSteps : public Module {
   public:
    TwoSteps() : layer(register_module("layer", torch::nn::Linear(6, 1))) {}
    bool automatic_optimization() const override { return false; }
    torch::Tensor training_step(const Batch& batch, int64_t) override {
      for (int i = 0; i < 2; ++i) {
        auto by_hand = optimizer();
        const auto loss = layer(batch[size_t{0}]).to(torch::kFloat32).mean();
        losses.push_back(loss.item<double>());
        by_hand.zero_grad();
        manual_backward(loss);
        by_hand.step();
      }
      return {};
    }
    OptimizerConfig configure_optimizers() override {
      return std::make_unique<optim::SGD>(parameters(), optim::SGDOptions(1.0));
    }
    torch::nn::Linear layer;
    std::vector<double> losses;
  };
  for (const char* precision : {"32-true", "bf16-mixed"}) {
    TwoSteps module;
    ToyData data;
    TrainerConfig config = steps(2);
    config.precision = precision;
    Trainer(config).fit(module, data);
    ASSERT_EQ(module.losses.size(), 2U);
    EXPECT_LT(module.losses[1], module.losses[0] - 0.9) << precision;
  }
}

/// Two optimizers, one for each layer, the second every other batch.
class TwoOptimizers : public Module {
 public:
  TwoOptimizers()
      : a(register_module("a", torch::nn::Linear(6, 4))),
        b(register_module("b", torch::nn::Linear(4, 2))) {}
  bool automatic_optimization() const override { return false; }

  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    auto [x, y] = batch.unpack<2>();
    auto first = optimizer(0);
    auto second = optimizer(1);
    {
      const auto toggled = toggle(first);
      EXPECT_TRUE(a->weight.requires_grad());
      EXPECT_FALSE(b->weight.requires_grad());
      first.zero_grad();
      manual_backward(loss_of(x, y));
      first.step();
    }
    EXPECT_TRUE(b->weight.requires_grad());
    EXPECT_FALSE(b->weight.grad().defined() && progress().batches == 0);
    if (batch_idx % 2 == 1) {
      const auto toggled = toggle(second);
      second.zero_grad();
      manual_backward(loss_of(x, y));
      second.step();
    }
    return {};
  }
  OptimizerConfig configure_optimizers() override {
    return {std::make_unique<optim::AdamW>(a->parameters(), optim::AdamWOptions(0.01)),
            std::make_unique<torch::optim::SGD>(b->parameters(),
                                                torch::optim::SGDOptions(0.1).momentum(0.9))};
  }

  torch::nn::Linear a, b;

 private:
  torch::Tensor loss_of(const torch::Tensor& x, const torch::Tensor& y) {
    return torch::nn::functional::cross_entropy(b(torch::relu(a(x))), y);
  }
};

TEST(ManualOptimization, CountsTheStepsOfAllOptimizers) {
  TwoOptimizers module;
  ToyData data(40, 4);  // ten batches
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 15);
  EXPECT_EQ(trainer.progress().batches, 10);
  EXPECT_EQ(trainer.progress().stepped_batches, 10);
}

TEST(ManualOptimization, ResumesBitForBit) {
  const auto train = [](int64_t max_steps, const Trainer::CkptPath& ckpt_path, uint64_t seed) {
    seed_everything(seed);
    TwoOptimizers module;
    ToyData data(40, 4);
    TrainerConfig config = steps(max_steps);
    config.enable_checkpointing = true;
    Trainer(config).fit(module, data, ckpt_path);
    return flat_weights(module);
  };
  const TempDir whole, parts;
  torch::Tensor expected;
  {
    const WorkingDirectory here(whole.path());
    expected = train(36, {}, 5);
  }
  const WorkingDirectory here(parts.path());
  train(17, {}, 5);
  EXPECT_TRUE(torch::equal(train(36, "last", 6), expected));
}

TEST(ManualOptimization, RefusesSettingsOfTheAutomaticOne) {
  ByHand module;
  ToyData data;
  TrainerConfig config = steps(1);
  config.gradient_clip_val = 1.0;
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer(config).fit(module, data); }),
            "trainer.gradient_clip_val has no effect on ByHand, which optimizes by hand "
            "(automatic_optimization() is false). Unset it, and do it in training_step().");
  config = steps(1);
  config.accumulate_grad_batches = 2;
  EXPECT_THROW(Trainer(config).fit(module, data), ConfigError);
}

TEST(ManualOptimization, HasNoOptimizersOutsideOfFit) {
  class Impatient : public ByHand {
    void setup(Stage) override { optimizer(); }
  } module;
  ToyData data;
  EXPECT_EQ(
      thrown<UsageError>([&] { Trainer(steps(1)).fit(module, data); }),
      "Impatient: optimizers are there while fit trains only. Use them in training_step() and "
      "the hooks around it.");
}

}  // namespace
}  // namespace trainer::test
