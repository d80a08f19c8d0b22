#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <trainer/core/error.h>
#include <trainer/optim/lr_scheduler.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

using torch::optim::SGD;

SGD make_optimizer(const std::vector<double>& lrs) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const double lr : lrs) {
    groups.emplace_back(std::vector{torch::zeros({2}, torch::requires_grad())},
                        std::make_unique<torch::optim::SGDOptions>(lr));
  }
  return SGD(groups, torch::optim::SGDOptions(1.0));
}

std::vector<double> lrs(const SGD& optimizer) {
  std::vector<double> result;
  for (const auto& group : optimizer.param_groups()) {
    result.push_back(group.options().get_lr());
  }
  return result;
}

/// The learning rates of a run of `num_steps` optimizer steps.
std::vector<double> trace(LRScheduler& scheduler, const SGD& optimizer, int num_steps) {
  std::vector<double> result;
  for (int i = 0; i < num_steps; ++i) {
    result.push_back(lrs(optimizer)[0]);
    scheduler.step();
  }
  return result;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], 1e-14) << "at step " << i;
  }
}

TEST(LRScheduler, ScalesEveryGroupFromItsInitialLearningRate) {
  SGD optimizer = make_optimizer({0.5, 0.25});
  LambdaLR scheduler(optimizer, [](int64_t count) { return 1.0 / static_cast<double>(count + 1); });
  EXPECT_EQ(lrs(optimizer), (std::vector{0.5, 0.25}));
  scheduler.step();
  EXPECT_EQ(lrs(optimizer), (std::vector{0.25, 0.125}));
  scheduler.step();
  scheduler.step();
  EXPECT_EQ(lrs(optimizer), (std::vector{0.125, 0.0625}));
  EXPECT_EQ(scheduler.count(), 3);
}

TEST(LRScheduler, AppliesTheFirstFactorAtConstruction) {
  SGD optimizer = make_optimizer({0.5});
  const LambdaLR scheduler(optimizer, [](int64_t) { return 0.5; });
  EXPECT_EQ(lrs(optimizer), std::vector{0.25});
}

TEST(LRScheduler, ResumedContinuesExactly) {
  SGD optimizer = make_optimizer({0.3, 0.7});
  WarmupCosineLR scheduler(optimizer, 3, 20, 0.1);
  for (int i = 0; i < 7; ++i) {
    scheduler.step();
  }
  const auto saved = nlohmann::json::parse(scheduler.state_dict().dump());

  // The optimizer comes back with the decayed rates, not with the initial ones.
  SGD resumed_optimizer = make_optimizer(lrs(optimizer));
  WarmupCosineLR resumed(resumed_optimizer, 3, 20, 0.1);
  resumed.load_state_dict(saved);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(lrs(resumed_optimizer), lrs(optimizer)) << "step " << i;
    scheduler.step();
    resumed.step();
  }
  EXPECT_EQ(resumed.count(), 27);
}

TEST(LRScheduler, StateIsTheCountAndTheInitialLearningRates) {
  SGD optimizer = make_optimizer({0.5, 0.25});
  StepLR scheduler(optimizer, 1);
  scheduler.step();
  EXPECT_EQ(scheduler.state_dict().dump(), R"({"count":1,"initial_lrs":[0.5,0.25]})");
}

TEST(LRScheduler, RefusesAMalformedStateAndKeepsItsOwn) {
  SGD optimizer = make_optimizer({0.5});
  StepLR scheduler(optimizer, 1);
  scheduler.step();
  const auto before = scheduler.state_dict();
  for (const char* state :
       {"null", "[]", "{}", R"({"count":1})", R"({"count":-1,"initial_lrs":[1]})",
        R"({"count":1.5,"initial_lrs":[1]})", R"({"count":1,"initial_lrs":1})",
        R"({"count":1,"initial_lrs":{"a":1}})", R"({"count":1,"initial_lrs":[null]})",
        R"({"count":9223372036854775808,"initial_lrs":[1]})",
        R"({"count":"1","initial_lrs":[1]})"}) {
    const auto json = nlohmann::json::parse(state);
    EXPECT_EQ(thrown<CheckpointError>([&] { scheduler.load_state_dict(json); }),
              "Learning-rate scheduler: the state is " + json.dump() +
                  ", expected {\"count\": integer >= 0, \"initial_lrs\": [numbers]}.\n"
                  "  The checkpoint is damaged or has the state of something else here.");
  }
  EXPECT_EQ(thrown<CheckpointError>([&] {
              scheduler.load_state_dict({{"count", 1}, {"initial_lrs", {1.0, 2.0}}});
            }),
            "Learning-rate scheduler: the state has 2 initial_lrs, the optimizer has 1 parameter "
            "groups.\n"
            "  Make the parameter groups as they were when the checkpoint was written.");
  EXPECT_EQ(scheduler.state_dict(), before);
  EXPECT_EQ(lrs(optimizer), std::vector{0.05});
}

TEST(LRScheduler, RefusesAnOptimizerThatGotAGroupLater) {
  SGD optimizer = make_optimizer({0.5});
  StepLR scheduler(optimizer, 1);
  optimizer.add_param_group(
      torch::optim::OptimizerParamGroup({torch::zeros({1}, torch::requires_grad())}));
  EXPECT_EQ(
      thrown<UsageError>([&] { scheduler.step(); }),
      "The optimizer has 2 parameter groups, it had 1 when its learning-rate scheduler was made.\n"
      "  Make the scheduler after the last add_param_group().");
}

TEST(LambdaLR, RefusesAnEmptyFunction) {
  SGD optimizer = make_optimizer({0.5});
  EXPECT_EQ(
      thrown<UsageError>([&] { const LambdaLR scheduler(optimizer, nullptr); }),
      "LambdaLR: the function is empty; give one from the count to a factor of the learning rate.");
}

// The example in the manual of torch.optim.lr_scheduler.StepLR: 0.05 below 30, 0.005 below 60,
// 0.0005 below 90.
TEST(StepLR, IsThatOfPyTorch) {
  SGD optimizer = make_optimizer({0.05});
  StepLR scheduler(optimizer, 30, 0.1);
  const auto actual = trace(scheduler, optimizer, 90);
  for (int i = 0; i < 90; ++i) {
    EXPECT_NEAR(actual[i], i < 30 ? 0.05 : i < 60 ? 0.005 : 0.0005, 1e-17) << "at step " << i;
  }
}

TEST(StepLR, RefusesBadArguments) {
  SGD optimizer = make_optimizer({0.5});
  const auto message = [&](int64_t step_size, double gamma) {
    return thrown<UsageError>([&] { const StepLR scheduler(optimizer, step_size, gamma); });
  };
  EXPECT_EQ(message(0, 0.1), "StepLR: step_size is 0, it must be at least 1.");
  EXPECT_EQ(message(1, -0.1), "StepLR: gamma is -0.1, it must be a number of at least 0.");
  EXPECT_EQ(message(1, std::numeric_limits<double>::quiet_NaN()),
            "StepLR: gamma is nan, it must be a number of at least 0.");
  EXPECT_EQ(message(1, std::numeric_limits<double>::infinity()),
            "StepLR: gamma is inf, it must be a number of at least 0.");
  EXPECT_EQ(lrs(optimizer), std::vector{0.5});
}

TEST(WarmupCosineLR, RisesLinearlyThenFallsAlongHalfACosine) {
  SGD optimizer = make_optimizer({1.0});
  WarmupCosineLR scheduler(optimizer, 4, 12);
  expect_near(trace(scheduler, optimizer, 15),
              {0.2, 0.4, 0.6, 0.8, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449,
               0.5, 0.3086582838174551, 0.14644660940672624, 0.03806023374435662, 0.0, 0.0, 0.0});
}

TEST(WarmupCosineLR, StaysAtItsMinimum) {
  SGD optimizer = make_optimizer({2.0});
  WarmupCosineLR scheduler(optimizer, 0, 2, 0.25);
  expect_near(trace(scheduler, optimizer, 5), {2.0, 1.25, 0.5, 0.5, 0.5});
}

// The recursions that torch.optim.lr_scheduler.LinearLR and CosineAnnealingLR step along.
TEST(WarmupCosineLR, IsLinearLRThenCosineAnnealingLR) {
  constexpr int kWarmup = 10;
  constexpr int kTotal = 100;
  constexpr double kLr = 0.3;
  constexpr double kMin = 0.05 * kLr;
  SGD optimizer = make_optimizer({kLr});
  WarmupCosineLR scheduler(optimizer, kWarmup, kTotal, 0.05);
  const auto actual = trace(scheduler, optimizer, kTotal);

  const double start = 1.0 / (kWarmup + 1);
  double lr = kLr * start;
  for (int t = 1; t <= kWarmup; ++t) {
    EXPECT_NEAR(actual[t - 1], lr, 1e-13) << "at step " << t - 1;
    lr *= 1 + (1 - start) / (kWarmup * start + (t - 1) * (1 - start));
  }
  constexpr int kHalf = kTotal - kWarmup;
  for (int t = 1; t < kHalf; ++t) {
    EXPECT_NEAR(actual[kWarmup + t - 1], lr, 1e-13) << "at step " << kWarmup + t - 1;
    lr = (1 + std::cos(std::numbers::pi * t / kHalf)) /
             (1 + std::cos(std::numbers::pi * (t - 1) / kHalf)) * (lr - kMin) +
         kMin;
  }
}

TEST(WarmupCosineLR, RefusesBadArguments) {
  SGD optimizer = make_optimizer({0.5});
  const auto message = [&](int64_t warmup_steps, int64_t total_steps, double min_factor) {
    return thrown<UsageError>(
        [&] { const WarmupCosineLR scheduler(optimizer, warmup_steps, total_steps, min_factor); });
  };
  EXPECT_EQ(message(-1, 10, 0),
            "WarmupCosineLR: warmup_steps is -1 and total_steps is 10; choose 0 <= warmup_steps < "
            "total_steps.");
  EXPECT_EQ(message(10, 10, 0),
            "WarmupCosineLR: warmup_steps is 10 and total_steps is 10; choose 0 <= warmup_steps < "
            "total_steps.");
  EXPECT_EQ(message(0, 10, 1.5), "WarmupCosineLR: min_factor is 1.5, it must be between 0 and 1.");
  EXPECT_EQ(message(0, 10, -0.5),
            "WarmupCosineLR: min_factor is -0.5, it must be between 0 and 1.");
}

}  // namespace
}  // namespace trainer
