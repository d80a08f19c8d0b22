#include <trainer/optim/reduce_lr_on_plateau.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>

#include <tests/optim/lr_scheduler_fixture.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::lrs;
using test::make_sgd;
using test::thrown;
using torch::optim::SGD;

// lr_scheduler_factory_test.cpp compares it with PyTorch's.

TEST(ReduceLROnPlateau, ReducesAfterMoreThanPatienceStepsWithoutImprovement) {
  SGD optimizer = make_sgd({1.0, 0.5});
  ReduceLROnPlateau scheduler(optimizer, {.factor = 0.5, .patience = 2});
  for (const double metric : {3.0, 2.0, 2.0, 2.0}) {
    scheduler.step(metric);
    EXPECT_EQ(lrs(optimizer), (std::vector{1.0, 0.5}));
  }
  scheduler.step(2.0);
  EXPECT_EQ(lrs(optimizer), (std::vector{0.5, 0.25}));
  EXPECT_EQ(scheduler.count(), 5);
}

TEST(ReduceLROnPlateau, TakesWhatIsNotFiniteForNoImprovement) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const double metric : {-kInf, kInf, std::nan("")}) {
    SGD optimizer = make_sgd({1.0});
    ReduceLROnPlateau scheduler(optimizer, {.factor = 0.5, .patience = 0});
    scheduler.step(metric);
    EXPECT_EQ(lrs(optimizer), std::vector{0.5});
    EXPECT_TRUE(scheduler.state_dict()["best"].is_null());
  }
}

TEST(ReduceLROnPlateau, NeedsItsMetric) {
  SGD optimizer = make_sgd({1.0});
  ReduceLROnPlateau scheduler(optimizer, {});
  EXPECT_TRUE(scheduler.needs_metric());
  EXPECT_EQ(thrown<UsageError>([&] { scheduler.step(); }),
            "The learning-rate scheduler needs a metric: call step(metric), or set `monitor` where "
            "a Trainer steps it.");
  EXPECT_EQ(scheduler.count(), 0);
}

TEST(ReduceLROnPlateau, KeepsItsStateWhenItRefusesAnother) {
  SGD optimizer = make_sgd({1.0});
  ReduceLROnPlateau scheduler(optimizer, {.factor = 0.5, .patience = 0});
  scheduler.step(1.0);
  scheduler.step(2.0);
  const auto before = scheduler.state_dict();
  EXPECT_EQ(before.dump(),
            R"({"best":1.0,"cooldown_counter":0,"count":2,"initial_lrs":[1.0],"num_bad_epochs":0,)"
            R"("num_reductions":1})");
  for (const char* key : {"best", "num_bad_epochs", "cooldown_counter", "num_reductions"}) {
    auto bad = before;
    bad[key] = "x";
    EXPECT_EQ(thrown<CheckpointError>([&] { scheduler.load_state_dict(bad); }),
              "ReduceLROnPlateau: the state is " + bad.dump() +
                  ", expected {\"best\": number or null, \"num_bad_epochs\", \"cooldown_counter\", "
                  "\"num_reductions\": integers >= 0} in it.\n"
                  "  The checkpoint is damaged or has the state of something else here.");
    bad.erase(key);
    EXPECT_THROW(scheduler.load_state_dict(bad), CheckpointError);
  }
  auto bad = before;
  bad["num_reductions"] = 3;
  bad["initial_lrs"] = {1.0, 2.0};
  EXPECT_THROW(scheduler.load_state_dict(bad), CheckpointError);
  EXPECT_THROW(scheduler.load_state_dict("text"), CheckpointError);
  EXPECT_EQ(scheduler.state_dict(), before);
  EXPECT_EQ(lrs(optimizer), std::vector{0.5});
}

TEST(ReduceLROnPlateau, RefusesBadArguments) {
  SGD optimizer = make_sgd({1.0});
  const auto error = [&](const ReduceLROnPlateau::Init& init) {
    return thrown<ConfigError>([&] { const ReduceLROnPlateau scheduler(optimizer, init); });
  };
  EXPECT_EQ(error({.factor = 1}),
            "in code: ReduceLROnPlateau: factor is 1, which reduces nothing; it must be below 1.");
  EXPECT_EQ(error({.mode = "least", .patience = -1}),
            "in code: ReduceLROnPlateau.mode: is 'least': choose one of: min, max.\n"
            "in code: ReduceLROnPlateau.patience: is '-1': must be at least 0.");
}

}  // namespace
}  // namespace trainer
