#include <trainer/optim/lr_scheduler.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>

#include <trainer/core/error.h>
#include <trainer/optim/lr_schedules.h>
#include <trainer/optim/momentum.h>

#include <tests/optim/lr_scheduler_fixture.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

using test::lrs;
using test::make_sgd;
using torch::optim::SGD;

TEST(LRScheduler, ScalesEveryGroupFromItsInitialLearningRate) {
  SGD optimizer = make_sgd({0.5, 0.25});
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
  SGD optimizer = make_sgd({0.5});
  const LambdaLR scheduler(optimizer, [](int64_t) { return 0.5; });
  EXPECT_EQ(lrs(optimizer), std::vector{0.25});
}

TEST(LRScheduler, ResumedContinuesExactly) {
  SGD optimizer = make_sgd({0.3, 0.7});
  WarmupCosineLR scheduler(optimizer, 3, 20, 0.1);
  for (int i = 0; i < 7; ++i) {
    scheduler.step();
  }
  const auto saved = nlohmann::json::parse(scheduler.state_dict().dump());

  // The optimizer comes back with the decayed rates, not with the initial ones.
  SGD resumed_optimizer = make_sgd(lrs(optimizer));
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
  SGD optimizer = make_sgd({0.5, 0.25});
  StepLR scheduler(optimizer, 1);
  scheduler.step();
  EXPECT_EQ(scheduler.state_dict().dump(), R"({"count":1,"initial_lrs":[0.5,0.25]})");
}

TEST(LRScheduler, RefusesAMalformedStateAndKeepsItsOwn) {
  SGD optimizer = make_sgd({0.5});
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
  SGD optimizer = make_sgd({0.5});
  StepLR scheduler(optimizer, 1);
  optimizer.add_param_group(
      torch::optim::OptimizerParamGroup({torch::zeros({1}, torch::requires_grad())}));
  EXPECT_EQ(
      thrown<UsageError>([&] { scheduler.step(); }),
      "The optimizer has 2 parameter groups, it had 1 when its learning-rate scheduler was made.\n"
      "  Make the scheduler after the last add_param_group().");
}

TEST(LambdaLR, RefusesAnEmptyFunction) {
  SGD optimizer = make_sgd({0.5});
  EXPECT_EQ(
      thrown<UsageError>([&] { const LambdaLR scheduler(optimizer, nullptr); }),
      "LambdaLR: the function is empty; give one from the count to a factor of the learning rate.");
}

TEST(LRScheduler, RefusesALearningRateThatIsNoNumber) {
  SGD optimizer = make_sgd({0.5});
  LambdaLR scheduler(optimizer, [](int64_t count) { return count < 2 ? 1.0 : std::nan(""); });
  scheduler.step();
  EXPECT_EQ(
      thrown<UsageError>([&] { scheduler.step(); }),
      "The learning rate of parameter group 0 is nan after 2 steps of its scheduler, initially "
      "it was 0.5.\n  Correct the scheduler's arguments or function.");
}

TEST(LRScheduler, IgnoresAMetricThatItDoesNotNeed) {
  SGD optimizer = make_sgd({0.5});
  StepLR scheduler(optimizer, {.step_size = 1, .gamma = 0.5});
  EXPECT_FALSE(scheduler.needs_metric());
  scheduler.step(std::nan(""));
  EXPECT_EQ(scheduler.count(), 1);
  EXPECT_EQ(lrs(optimizer), std::vector{0.25});
}

class OwnOptions : public torch::optim::OptimizerCloneableOptions<OwnOptions>,
                   public MomentumOptions {
 public:
  void set_momentum(double momentum) override { momentum_ = momentum; }
  double get_lr() const override { return 1; }
  void set_lr(double) override {}
  double momentum_ = 0;
};

TEST(Momentum, IsThatOfAnyOptimizerThatHasOne) {
  torch::optim::SGDOptions sgd(1);
  torch::optim::RMSpropOptions rmsprop;
  torch::optim::AdamOptions adam;
  torch::optim::AdamWOptions adamw;
  OwnOptions own;
  for (torch::optim::OptimizerOptions* options :
       std::initializer_list<torch::optim::OptimizerOptions*>{&sgd, &rmsprop, &adam, &adamw,
                                                              &own}) {
    EXPECT_TRUE(has_momentum(*options));
    set_momentum(*options, 0.625);
  }
  EXPECT_EQ(sgd.momentum(), 0.625);
  EXPECT_EQ(rmsprop.momentum(), 0.625);
  EXPECT_EQ(adam.betas(), (std::tuple{0.625, 0.999}));
  EXPECT_EQ(adamw.betas(), (std::tuple{0.625, 0.999}));
  EXPECT_EQ(own.momentum_, 0.625);
  torch::optim::AdagradOptions adagrad;
  EXPECT_FALSE(has_momentum(adagrad));
  EXPECT_EQ(thrown<UsageError>([&] { set_momentum(adagrad, 0.5); }),
            "torch::optim::AdagradOptions has no momentum that a schedule could set.\n"
            "  Choose another optimizer, or derive its options from trainer::MomentumOptions too.");
}

}  // namespace
}  // namespace trainer
