#include <trainer/optim/schedule_free_adamw.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include <trainer/core/error.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::Parameters;
using test::thrown;

using torch::Tensor;
using Options = ScheduleFreeAdamWOptions;

Parameters two() {
  return {torch::full({3, 2}, 0.5, torch::dtype(torch::kFloat64).requires_grad(true)),
          torch::full({4}, -0.5, torch::dtype(torch::kFloat64).requires_grad(true))};
}

/// Both parameters towards 0; the second one only in every other step.
void train(ScheduleFreeAdamW& optimizer, const Parameters& parameters, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    parameters[0].mutable_grad() = parameters[0].detach() + 0.1 * (step % 3);
    parameters[1].mutable_grad() = step % 2 == 0 ? parameters[1].detach().clone() : Tensor();
    optimizer.step();
  }
}

TEST(ScheduleFreeAdamW, ComesBackFromEvalToTheSamePoint) {
  const Parameters parameters = two();
  ScheduleFreeAdamW optimizer(parameters, Options(0.05));
  train(optimizer, parameters, 0, 20);
  const Parameters before = {parameters[0].detach().clone(), parameters[1].detach().clone()};
  optimizer.eval();
  EXPECT_FALSE(torch::allclose(parameters[0], before[0], 0, 1e-3));
  optimizer.train();
  EXPECT_TRUE(test::equal(parameters, before));
}

TEST(ScheduleFreeAdamW, DoesNothingWhenItIsInTheModeAlready) {
  const Parameters parameters = two();
  ScheduleFreeAdamW optimizer(parameters, Options(0.05));
  optimizer.train();
  optimizer.eval();  // Before the first step both versions are the same.
  EXPECT_TRUE(test::equal(parameters, two()));
  optimizer.train();
  train(optimizer, parameters, 0, 5);
  optimizer.eval();
  const Tensor average = parameters[0].detach().clone();
  optimizer.eval();
  EXPECT_TRUE(torch::equal(parameters[0], average));
}

// The average of the paper, without learning rate changes: x = mean of z.
TEST(ScheduleFreeAdamW, EvaluatesAtTheMeanOfTheIterates) {
  const Parameters parameters = two();
  ScheduleFreeAdamW optimizer(parameters, Options(0.05));
  Tensor sum = torch::zeros({3, 2}, torch::kFloat64);
  for (int step = 0; step < 30; ++step) {
    train(optimizer, parameters, step, step + 1);
    sum += optimizer.optimizer_state().parameters[0].at("z");
  }
  optimizer.eval();
  EXPECT_TRUE(torch::allclose(parameters[0], sum / 30, 0, 1e-13));
}

// As the Trainer does it: eval() before saving, train() before it goes on.
TEST(ScheduleFreeAdamW, ResumedFromACheckpointInEvalModeEqualsNeverStopped) {
  const Parameters never_stopped = two();
  ScheduleFreeAdamW optimizer(never_stopped, Options(0.05).warmup_steps(8));
  train(optimizer, never_stopped, 0, 5);
  optimizer.eval();
  const auto saved = test::stored(optimizer.optimizer_state());
  const Parameters resumed = two();
  test::copy_values(never_stopped, resumed);
  ScheduleFreeAdamW fresh(resumed, Options(1));
  fresh.load_optimizer_state(saved);
  for (auto* each : {&optimizer, &fresh}) {
    each->train();
    train(*each, each == &fresh ? resumed : never_stopped, 5, 15);
    each->eval();
  }
  EXPECT_TRUE(test::equal(resumed, never_stopped));
  EXPECT_TRUE(test::equal(fresh.optimizer_state(), optimizer.optimizer_state()));
}

TEST(ScheduleFreeAdamW, RefusesAStepInEvalMode) {
  const Parameters parameters = two();
  ScheduleFreeAdamW optimizer(parameters, Options(0.05));
  optimizer.eval();
  EXPECT_EQ(thrown<UsageError>([&] { train(optimizer, parameters, 0, 1); }),
            "ScheduleFreeAdamW: step() while the parameters hold the average.\n"
            "  Call train() first.");
  EXPECT_TRUE(test::equal(parameters, two()));
}

TEST(ScheduleFreeAdamW, RefusesBadOptions) {
  const auto message = [](const Options& options) {
    return thrown<UsageError>([&] { ScheduleFreeAdamW(two(), options); });
  };
  EXPECT_EQ(message(Options().betas({0, 0.9})),
            "ScheduleFreeAdamW: the first of betas is 0, it must be above 0.");
  EXPECT_EQ(message(Options().warmup_steps(-1)),
            "ScheduleFreeAdamW: warmup_steps is -1, it must be at least 0.");
}

}  // namespace
}  // namespace trainer::optim
