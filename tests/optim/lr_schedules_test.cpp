#include <trainer/optim/lr_schedules.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/optim/adagrad.h>

#include <trainer/core/error.h>

#include <tests/optim/lr_scheduler_fixture.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::expect_near;
using test::lrs;
using test::make_sgd;
using test::thrown;
using test::trace;
using torch::optim::SGD;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

template <class T>
std::string config_error(typename T::Init init) {
  SGD optimizer = make_sgd({0.5});
  auto message = thrown<ConfigError>([&] { const T scheduler(optimizer, init); });
  EXPECT_EQ(lrs(optimizer), std::vector{0.5});
  return message;
}

// Those that PyTorch has are compared with it in lr_scheduler_factory_test.cpp.

TEST(ConstantLR, IsOverAtOnceWithoutSteps) {
  SGD optimizer = make_sgd({0.5});
  const ConstantLR scheduler(optimizer, {.total_iters = 0});
  EXPECT_EQ(lrs(optimizer), std::vector{0.5});
}

TEST(LinearWarmupLR, RisesFromAboveZeroToTheInitialLearningRate) {
  SGD optimizer = make_sgd({1.0});
  LinearWarmupLR scheduler(optimizer, {.warmup_steps = 4});
  expect_near(trace(scheduler, optimizer, 7), {0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0});
}

TEST(WarmupCosineLR, RisesLinearlyThenFallsAlongHalfACosine) {
  SGD optimizer = make_sgd({1.0});
  WarmupCosineLR scheduler(optimizer, 4, 12);
  expect_near(trace(scheduler, optimizer, 15),
              {0.2, 0.4, 0.6, 0.8, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449,
               0.5, 0.3086582838174551, 0.14644660940672624, 0.03806023374435662, 0.0, 0.0, 0.0});
}

TEST(WarmupCosineLR, StaysAtItsMinimum) {
  SGD optimizer = make_sgd({2.0});
  WarmupCosineLR scheduler(optimizer, 0, 2, 0.25);
  expect_near(trace(scheduler, optimizer, 5), {2.0, 1.25, 0.5, 0.5, 0.5});
}

TEST(WarmupCosineLR, OnlyRisesInARunThatEndsBefore) {
  SGD optimizer = make_sgd({1.0});
  WarmupCosineLR scheduler(optimizer, {.warmup_steps = 4}, {.total_steps = 2});
  expect_near(trace(scheduler, optimizer, 3), {0.2, 0.4, 0.6});
}

TEST(WSDLR, RisesStaysAndFalls) {
  SGD optimizer = make_sgd({1.0});
  WSDLR linear(optimizer, {.warmup_steps = 1, .decay_steps = 4, .min_factor = 0.2},
               {.total_steps = 8});
  expect_near(trace(linear, optimizer, 10), {0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2});
  SGD second = make_sgd({1.0});
  WSDLR root(second, {.decay_steps = 4, .total_steps = 5, .decay = "1-sqrt"});
  expect_near(trace(root, second, 7), {1, 1, 0.5, 1 - std::sqrt(0.5), 1 - std::sqrt(0.75), 0, 0});
  SGD third = make_sgd({1.0});
  WSDLR cosine(third, {.decay_steps = 2, .total_steps = 2, .decay = "cosine"});
  expect_near(trace(cosine, third, 4), {1, 0.5, 0, 0});
}

TEST(OneCycleLR, TakesEachGroupsOwnPeakAndStaysAtItsEnd) {
  SGD optimizer = make_sgd({1.0, 0.5});
  OneCycleLR scheduler(optimizer, {.pct_start = 0.5, .anneal_strategy = "linear", .div_factor = 2},
                       {.total_steps = 9});
  double highest = 0;
  for (int i = 0; i < 8; ++i) {
    highest = std::max(highest, lrs(optimizer)[0]);
    EXPECT_DOUBLE_EQ(lrs(optimizer)[0], 2 * lrs(optimizer)[1]);
    scheduler.step();
  }
  EXPECT_GT(highest, 0.9);
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(lrs(optimizer)[0], 0.5 / 1e4, 1e-15);
    EXPECT_DOUBLE_EQ(
        static_cast<torch::optim::SGDOptions&>(optimizer.param_groups()[0].options()).momentum(),
        0.95);
    scheduler.step();
  }
}

TEST(OneCycleLR, HasAOneStepCycle) {
  SGD optimizer = make_sgd({1.0});
  OneCycleLR scheduler(optimizer, {.total_steps = 1});
  EXPECT_TRUE(std::isfinite(lrs(optimizer)[0]));
}

TEST(OneCycleLR, RefusesToCycleAMomentumThatIsNotThere) {
  torch::optim::Adagrad optimizer(
      std::vector<torch::Tensor>{torch::zeros({1}, torch::requires_grad())});
  EXPECT_EQ(thrown<ConfigError>([&] { const OneCycleLR scheduler(optimizer, {.total_steps = 5}); }),
            "OneCycleLR: cycle_momentum is true, but the optimizer has neither momentum nor betas. "
            "Turn cycle_momentum off, or choose another optimizer.");
}

TEST(CosineAnnealingWarmRestarts, TakesAnyLargeNumber) {
  SGD optimizer = make_sgd({1.0});
  const CosineAnnealingWarmRestarts scheduler(optimizer, {.T_0 = 3, .T_mult = kMax});
  EXPECT_DOUBLE_EQ(scheduler.lr(1, 3), 1);
  EXPECT_LE(scheduler.lr(1, kMax), 1);
}

TEST(LRSchedules, TakeTheLengthOfTheRunWhereNoneIsGiven) {
  SGD optimizer = make_sgd({1.0});
  const LRSchedulerContext run = {.total_steps = 10};
  EXPECT_NEAR(CosineAnnealingLR(optimizer, {}, run).lr(1, 5), 0.5, 1e-15);
  EXPECT_NEAR(PolynomialLR(optimizer, {}, run).lr(1, 5), 0.5, 1e-15);
  EXPECT_NEAR(WarmupCosineLR(optimizer, {}, run).lr(1, 5), 0.5, 1e-15);
  EXPECT_NEAR(WSDLR(optimizer, {.decay_steps = 10}, run).lr(1, 5), 0.5, 1e-15);
  EXPECT_EQ(
      config_error<CosineAnnealingLR>({}),
      "CosineAnnealingLR: T_max is not set, and the number of steps of the run is not known.\n"
      "  Set T_max, or give the run an end: max_steps, or max_epochs over data of a known "
      "size.");
  EXPECT_THROW(PolynomialLR(optimizer, {}), ConfigError);
  EXPECT_THROW(OneCycleLR(optimizer, {}), ConfigError);
  EXPECT_THROW(WarmupCosineLR(optimizer, {}), ConfigError);
  EXPECT_THROW(WSDLR(optimizer, {}), ConfigError);
}

TEST(LRSchedules, RefuseBadArguments) {
  EXPECT_EQ(config_error<StepLR>({.step_size = 0, .gamma = -0.1}),
            "in code: StepLR.step_size: is '0': must be at least 1.\n"
            "in code: StepLR.gamma: is '-0.1': must be at least 0.0.");
  EXPECT_EQ(config_error<StepLR>({.gamma = std::nan("")}),
            "in code: StepLR.gamma: is '.nan': must be at least 0.0.");
  EXPECT_EQ(config_error<ConstantLR>({.factor = 1.5}),
            "in code: ConstantLR.factor: is '1.5': must lie between 0.0 and 1.0.");
  EXPECT_EQ(config_error<LinearLR>({.start_factor = 0}),
            "in code: LinearLR.start_factor: is '0.0': must be greater than 0.0.");
  EXPECT_EQ(config_error<MultiStepLR>({.milestones = {3, 2}}),
            "in code: MultiStepLR: milestones are [3, 2], they have to be in order.");
  EXPECT_EQ(config_error<WarmupCosineLR>({.warmup_steps = 10, .total_steps = 10}),
            "in code: WarmupCosineLR: warmup_steps is 10 and total_steps is 10; choose 0 <= "
            "warmup_steps < total_steps.");
  EXPECT_EQ(config_error<WarmupCosineLR>({.total_steps = 5, .min_factor = 1.5}),
            "in code: WarmupCosineLR.min_factor: is '1.5': must lie between 0.0 and 1.0.");
  EXPECT_EQ(config_error<WSDLR>({.warmup_steps = 6, .decay_steps = 5, .total_steps = 10}),
            "in code: WSDLR: warmup_steps is 6, decay_steps is 5 and total_steps is 10; choose "
            "warmup_steps + decay_steps <= total_steps.");
  EXPECT_EQ(config_error<WSDLR>({.total_steps = 10, .decay = "log"}),
            "in code: WSDLR.decay: is 'log': choose one of: linear, cosine, 1-sqrt.");
  EXPECT_EQ(config_error<OneCycleLR>({.total_steps = 0, .anneal_strategy = "cosine"}),
            "in code: OneCycleLR.total_steps: is '0': must be at least 1.\n"
            "in code: OneCycleLR.anneal_strategy: is 'cosine': choose one of: cos, linear.");
}

}  // namespace
}  // namespace trainer
