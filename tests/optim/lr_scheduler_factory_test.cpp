#include <trainer/optim/lr_scheduler_factory.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/optim/adamw.h>

#include <trainer/builtins.h>
#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/optim/lr_schedules.h>
#include <trainer/optim/reduce_lr_on_plateau.h>

#include <tests/optim/lr_scheduler_fixture.h>
#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using nlohmann::json;
using test::expect_near;
using test::lrs;
using test::make_sgd;
using test::thrown;
using test::trace;
using torch::optim::AdamW;
using torch::optim::AdamWOptions;
using torch::optim::Optimizer;
using torch::optim::SGD;
using torch::optim::SGDOptions;

Spec<LRSchedulerFactory> spec(const json& setting) {
  register_builtins();
  return {setting["class_path"].get<std::string>(),
          config::parse_yaml(setting["init_args"].dump(), "setting")};
}

/// That of tests/parity/record_schedulers.py.
double metric(int64_t step) {
  if (step == 47) {
    return std::nan("");
  }
  return step < 60 ? 1.0 / static_cast<double>(1 + std::min<int64_t>(step, 20))
                   : 1.0 / static_cast<double>(step - 20);
}

void step(LRScheduler& scheduler, const json& setting) {
  if (scheduler.needs_metric()) {
    const bool is_max = setting["init_args"].value("mode", "min") == "max";
    scheduler.step((is_max ? -1 : 1) * metric(scheduler.count()));
  } else {
    scheduler.step();
  }
}

double momentum(const Optimizer& optimizer) {
  const auto& options = optimizer.param_groups()[0].options();
  const auto* const adamw = dynamic_cast<const AdamWOptions*>(&options);
  return adamw != nullptr ? std::get<0>(adamw->betas())
                          : dynamic_cast<const SGDOptions&>(options).momentum();
}

std::unique_ptr<Optimizer> optimizer_of(const json& setting) {
  const std::vector<double> initial = {0.1, 0.03};
  if (setting["optimizer"] == "AdamW") {
    return std::make_unique<AdamW>(test::make_optimizer<AdamW, AdamWOptions>(initial));
  }
  return std::make_unique<SGD>(make_sgd(initial));
}

const json& recorded() {
  static const json kSettings =
      json::parse(test::read_file(test::tests_dir() / "golden/lr_schedulers.json"));
  return kSettings;
}

/// To 1e-12, relatively; and next to 0, where PyTorch's recursions leave some rounding, to 1e-15 of
/// the initial learning rate of 0.1.
void expect_equal(double actual, double expected) {
  EXPECT_NEAR(actual, expected, 1e-12 * std::abs(expected) + 1e-16);
}

TEST(LRSchedulers, AreThoseOfPyTorch) {
  ASSERT_GE(recorded().size(), 25);
  for (const auto& setting : recorded()) {
    SCOPED_TRACE(setting["class_path"].get<std::string>() + " " + setting["init_args"].dump());
    const auto optimizer = optimizer_of(setting);
    const auto scheduler = spec(setting).create()->create(*optimizer, {});
    ASSERT_EQ(setting["lrs"].size(), 100);
    for (size_t i = 0; i < 100; ++i) {
      SCOPED_TRACE("step " + std::to_string(i));
      expect_equal(lrs(*optimizer)[0], setting["lrs"][i].get<double>());
      if (i % 10 == 0) {
        expect_equal(lrs(*optimizer)[1], setting["others"][i / 10].get<double>());
      }
      if (setting.contains("momentum")) {
        expect_equal(momentum(*optimizer), setting["momentum"][i].get<double>());
      }
      step(*scheduler, setting);
    }
  }
}

TEST(LRSchedulers, ResumedAtAnyStepContinueExactly) {
  for (const auto& setting : recorded()) {
    SCOPED_TRACE(setting["class_path"].get<std::string>() + " " + setting["init_args"].dump());
    std::vector<std::vector<double>> uninterrupted;
    std::vector<double> momenta;
    std::vector<std::string> states;
    const auto optimizer = optimizer_of(setting);
    const auto scheduler = spec(setting).create()->create(*optimizer, {});
    for (int i = 0; i < 100; ++i) {
      uninterrupted.push_back(lrs(*optimizer));
      momenta.push_back(momentum(*optimizer));
      states.push_back(scheduler->state_dict().dump());
      step(*scheduler, setting);
    }
    for (size_t saved = 0; saved < 100; saved += 9) {
      const auto resumed_optimizer = optimizer_of(setting);
      const auto resumed = spec(setting).create()->create(*resumed_optimizer, {});
      step(*resumed, setting);  // what it did before makes no difference
      resumed->load_state_dict(json::parse(states[saved]));
      for (size_t i = saved; i < 100; ++i) {
        ASSERT_EQ(lrs(*resumed_optimizer), uninterrupted[i]) << saved << " " << i;
        ASSERT_EQ(momentum(*resumed_optimizer), momenta[i]) << saved << " " << i;
        step(*resumed, setting);
      }
    }
  }
}

TEST(LRSchedulerFactory, TakesArgumentsAndTheLengthOfTheRun) {
  SGD optimizer = make_sgd({1.0});
  const auto scheduler =
      lr_scheduler<PolynomialLR>({.power = 2}).create()->create(optimizer, {.total_steps = 4});
  expect_near(trace(*scheduler, optimizer, 6), {1, 0.5625, 0.25, 0.0625, 0, 0});
}

class HalvingLR : public LRScheduler {
 public:
  struct Init {
    static constexpr auto fields() { return std::tuple{}; }
  };
  HalvingLR(Optimizer& optimizer, Init) : LRScheduler(optimizer) { apply(); }
  double lr(double initial_lr, int64_t count) const override {
    return initial_lr * std::pow(0.5, static_cast<double>(count));
  }
};

TEST(LRSchedulerFactory, MakesSchedulersOfUsers) {
  SGD optimizer = make_sgd({1.0});
  const auto scheduler = lr_scheduler<HalvingLR>({}).create()->create(optimizer, {});
  expect_near(trace(*scheduler, optimizer, 3), {1, 0.5, 0.25});
  EXPECT_NE(registry::find("lr scheduler", "HalvingLR"), nullptr);
}

TEST(ChainedScheduler, GivesEachSchedulerWhatTheOneBeforeMakes) {
  SGD optimizer = make_sgd({1.0});
  ChainedScheduler scheduler(optimizer,
                             {{lr_scheduler<ExponentialLR>({.gamma = 0.5}),
                               lr_scheduler<CosineAnnealingLR>({.T_max = 2, .eta_min = 0.25}),
                               lr_scheduler<OneCycleLR>({.total_steps = 4, .pct_start = 0.5})}});
  ASSERT_TRUE(scheduler.momentum(0));
  const OneCycleLR last(optimizer, {.total_steps = 4, .pct_start = 0.5});
  for (int64_t i = 0; i < 4; ++i) {
    const double first = std::pow(0.5, static_cast<double>(i));
    const double cosine = std::cos(std::acos(-1.0) * static_cast<double>(i) / 2);
    EXPECT_NEAR(scheduler.lr(1, i), last.lr(0.25 + (first - 0.25) * (1 + cosine) / 2, i), 1e-15);
    EXPECT_EQ(scheduler.momentum(i), last.momentum(i));
  }
}

TEST(SequentialLR, GivesEachPartItsOwnLength) {
  SGD optimizer = make_sgd({1.0});
  const SequentialLR::Init init = {
      {lr_scheduler<LinearWarmupLR>({.warmup_steps = 1}), lr_scheduler<PolynomialLR>({}),
       lr_scheduler<CosineAnnealingLR>({})},
      {1, 5}};
  SequentialLR scheduler(optimizer, init, {.total_steps = 7});
  expect_near(trace(scheduler, optimizer, 8), {0.5, 1, 0.75, 0.5, 0.25, 1, 0.5, 0});
  EXPECT_EQ(
      thrown<ConfigError>([&] { SequentialLR(optimizer, init, {}); }),
      "CosineAnnealingLR: T_max is not set, and the number of steps of the run is not known.\n"
      "  Set T_max, or give the run an end: max_steps, or max_epochs over data of a known "
      "size.");
}

TEST(SequentialLR, RefusesBadArguments) {
  SGD optimizer = make_sgd({1.0});
  const auto part = lr_scheduler<StepLR>({.step_size = 2});
  const auto error = [&](const SequentialLR::Init& init) {
    return thrown<ConfigError>([&] { SequentialLR(optimizer, init); });
  };
  EXPECT_EQ(
      error({}),
      "in code: SequentialLR: has 0 schedulers and 0 milestones; give at least one scheduler, "
      "and one milestone fewer than schedulers.");
  EXPECT_EQ(
      error({{part, part}, {}}),
      "in code: SequentialLR: has 2 schedulers and 0 milestones; give at least one scheduler, "
      "and one milestone fewer than schedulers.");
  EXPECT_EQ(error({{part, part, part}, {3, 3}}),
            "in code: SequentialLR: milestones are [3, 3], they have to rise, from above 0.");
  EXPECT_EQ(
      error({{part, lr_scheduler<ReduceLROnPlateau>({})}, {3}}),
      "SequentialLR: ReduceLROnPlateau needs a metric and cannot be part of SequentialLR; use "
      "it alone.");
  EXPECT_EQ(thrown<ConfigError>([&] { ChainedScheduler(optimizer, {}); }),
            "in code: ChainedScheduler: schedulers is empty; give at least one.");
  EXPECT_THROW(ChainedScheduler(optimizer, {{lr_scheduler<ReduceLROnPlateau>({})}}), ConfigError);
}

TEST(LRSchedulerFactory, ReportsMistakesWithTheirPlace) {
  register_builtins();
  config::Diagnostics diagnostics;
  const auto node = config::parse_yaml(
      "class_path: SequentialLR\n"
      "init_args:\n"
      "  milestones: [3]\n"
      "  schedulers:\n"
      "    - {class_path: LinearLR, init_args: {total_iters: 0}}\n"
      "    - CosineLR\n",
      "a.yaml");
  config::read<Spec<LRSchedulerFactory>>(node, "lr_scheduler", diagnostics);
  const std::string message = thrown<ConfigError>([&] { diagnostics.throw_if_any(); });
  EXPECT_NE(message.find("a.yaml:5:"), std::string::npos) << message;
  EXPECT_NE(message.find("total_iters: is '0': must be at least 1."), std::string::npos) << message;
  EXPECT_NE(message.find("unknown lr scheduler 'CosineLR'."), std::string::npos) << message;
}

}  // namespace
}  // namespace trainer
