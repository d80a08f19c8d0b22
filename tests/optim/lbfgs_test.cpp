#include <trainer/optim/lbfgs.h>

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/optimizer_state.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::Parameters;
using test::thrown;

using torch::Tensor;

Parameters start() {
  return {torch::full({2, 2}, -1.2, torch::dtype(torch::kFloat64).requires_grad(true)),
          torch::full({4}, 1.0, torch::dtype(torch::kFloat64).requires_grad(true)),
          torch::full({3}, 5.0, torch::dtype(torch::kFloat64).requires_grad(true))};
}

/// Rosenbrock's function of the first two parameters; the third one never gets a gradient.
Tensor rosenbrock(const Parameters& p) {
  const Tensor x = p[0].flatten();
  return (100 * (p[1] - x.square()).square() + (1 - x).square()).sum();
}

LBFGSOptions options(bool line_search) {
  auto result = LBFGSOptions(line_search ? 1 : 1e-3).max_iter(4).history_size(3);
  if (line_search) {
    result.line_search_fn("strong_wolfe");
  }
  return result;
}

void train(torch::optim::Optimizer& optimizer, const Parameters& parameters, int num_steps) {
  for (int step = 0; step < num_steps; ++step) {
    optimizer.step([&] {
      optimizer.zero_grad();
      const Tensor loss = rosenbrock(parameters);
      loss.backward();
      return loss;
    });
  }
}

TEST(LBFGS, FindsTheMinimumWithTheLineSearch) {
  const Parameters parameters = start();
  LBFGS optimizer(parameters, options(true));
  train(optimizer, parameters, 30);
  EXPECT_LT(rosenbrock(parameters).item<double>(), 1e-8);
  EXPECT_TRUE(torch::equal(parameters[2], start()[2]));
}

TEST(LBFGS, EvaluatesTheClosureManyTimesAndReturnsTheFirstLoss) {
  const Parameters parameters = start();
  LBFGS optimizer(parameters, options(true));
  int num_evaluations = 0;
  const double expected = rosenbrock(parameters).item<double>();
  const Tensor loss = optimizer.step([&] {
    ++num_evaluations;
    EXPECT_TRUE(torch::GradMode::is_enabled());
    optimizer.zero_grad();
    const Tensor value = rosenbrock(parameters);
    value.backward();
    return value;
  });
  EXPECT_EQ(loss.item<double>(), expected);
  EXPECT_GT(num_evaluations, 2);
  EXPECT_EQ(optimizer_state(optimizer).parameters[0].at("func_evals").item<int64_t>(),
            num_evaluations);
}

TEST(LBFGS, ResumedInAFreshOneEqualsNeverStoppedBitForBit) {
  for (const bool line_search : {false, true}) {
    for (const int stop : {0, 1, 3}) {
      const Parameters expected = start();
      torch::optim::LBFGS never_stopped(expected, options(line_search));
      train(never_stopped, expected, stop);
      const auto saved = test::stored(optimizer_state(never_stopped));
      const Parameters resumed = start();
      test::copy_values(expected, resumed);
      LBFGS fresh(resumed);
      load_optimizer_state(fresh, saved);
      train(never_stopped, expected, 4);
      train(fresh, resumed, 4);
      EXPECT_TRUE(test::equal(resumed, expected)) << line_search << " stopped after " << stop;
      EXPECT_TRUE(test::equal(optimizer_state(fresh), optimizer_state(never_stopped)));
    }
  }
}

TEST(LBFGS, IsResumedAtAMinimum) {
  const Parameters parameters = {torch::zeros({3}, torch::requires_grad())};
  LBFGS optimizer(parameters);
  const auto closure = [](LBFGS& of, const Tensor& x) {
    of.zero_grad();
    const Tensor loss = x.square().sum();
    loss.backward();
    return loss;
  };
  optimizer.step([&] { return closure(optimizer, parameters[0]); });
  const auto saved = optimizer_state(optimizer);
  EXPECT_EQ(saved.parameters[0].at("n_iter").item<int64_t>(), 0);
  LBFGS fresh(parameters);
  load_optimizer_state(fresh, saved);
  EXPECT_TRUE(test::equal(optimizer_state(fresh), saved));
  fresh.step([&] { return closure(fresh, parameters[0]); });
  EXPECT_EQ(optimizer_state(fresh).parameters[0].at("func_evals").item<int64_t>(), 2);
}

TEST(LBFGS, DerivesMaxEvalFromTheOptionsOfItsGroup) {
  test::Groups groups;
  groups.emplace_back(start(), std::make_unique<LBFGSOptions>(LBFGSOptions(0.5).max_iter(40)));
  const LBFGS optimizer(groups);
  const auto saved = optimizer_state(optimizer).groups;
  EXPECT_EQ(saved.dump(),
            R"([{"history_size":100,"line_search_fn":null,"lr":0.5,"max_eval":50,"max_iter":40,)"
            R"("tolerance_change":1e-09,"tolerance_grad":1e-07}])");
}

TEST(LBFGS, ChangesNothingWhenTheStateDoesNotFit) {
  const Parameters parameters = start();
  LBFGS optimizer(parameters, options(true));
  train(optimizer, parameters, 2);
  const auto before = test::stored(optimizer_state(optimizer));
  const auto message = [&](const std::function<void(OptimizerState&)>& damage) {
    auto state = test::stored(before);
    state.groups[0]["lr"] = 123;
    damage(state);
    const auto text = thrown<CheckpointError>([&] { load_optimizer_state(optimizer, state); });
    EXPECT_TRUE(test::equal(optimizer_state(optimizer), before));
    return text;
  };
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters.pop_back(); }),
            "Optimizer state: found 2 parameters in 1 groups, expected 3 in 1.\n"
            "  Restore it with the module and the parameter groups it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters[0].erase("prev_flat_grad"); }),
            "Optimizer state: prev_flat_grad is missing for LBFGS.\n"
            "  Restore it with the optimizer it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters[0]["d"] = torch::zeros({7}); }),
            "Optimizer state: d of LBFGS is [7], expected [11].\n"
            "  Restore it with the module it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters[0]["t"] = torch::zeros({1}); }),
            "Optimizer state: t of LBFGS is [1], expected one number.\n"
            "  The checkpoint is damaged.");
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters[1]["exp_avg"] = torch::zeros({4}); }),
            "Optimizer state: parameter 1 has state of its own, but LBFGS has one for all "
            "parameters.\n  Restore it with the optimizer it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) { s.groups[0]["line_search_fn"] = 3; }),
            "Optimizer state: line_search_fn of group 0 is 3, expected a value such as "
            "\"strong_wolfe\".\n"
            "  The checkpoint is damaged, or was written with another optimizer.");
  for (const char* name : {"old_dirs", "old_stps", "ro", "H_diag", "n_iter", "prev_loss"}) {
    message([&](OptimizerState& s) { s.parameters[0][name] = torch::zeros({2, 2, 2}); });
    if (std::string(name) != "old_dirs") {
      message([&](OptimizerState& s) { s.parameters[0].erase(name); });
    }
  }
}

TEST(LBFGS, RefusesWhatItCannotDo) {
  const auto message = [](const LBFGSOptions& of) {
    return thrown<UsageError>([&] { LBFGS(start(), of); });
  };
  EXPECT_EQ(message(LBFGSOptions(-1)), "LBFGS: lr is -1, it must be at least 0.");
  EXPECT_EQ(message(LBFGSOptions().max_iter(0)), "LBFGS: max_iter is 0, it must be at least 1.");
  EXPECT_EQ(message(LBFGSOptions().max_eval(0)), "LBFGS: max_eval is 0, it must be at least 1.");
  EXPECT_EQ(message(LBFGSOptions().history_size(0)),
            "LBFGS: history_size is 0, it must be at least 1.");
  EXPECT_EQ(message(LBFGSOptions().line_search_fn("armijo")),
            "LBFGS: line_search_fn is 'armijo'.\n  Give it 'strong_wolfe' or none.");
  test::Groups groups;
  EXPECT_EQ(thrown<UsageError>([&] { const LBFGS optimizer(groups); }),
            "LBFGS: found 0 parameter groups.\n  Give it one group with all parameters.");
  groups.emplace_back(Parameters{});
  EXPECT_EQ(thrown<UsageError>([&] { const LBFGS optimizer(groups); }),
            "LBFGS: found 1 parameter groups without a parameter.\n"
            "  Give it one group with all parameters.");
  LBFGS optimizer(start());
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(nullptr); }),
            "LBFGS: step() without a closure.\n"
            "  Give it one that zeroes the gradients, evaluates the loss and runs backward().");
}

}  // namespace
}  // namespace trainer::optim
