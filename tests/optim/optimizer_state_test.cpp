#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <trainer/core/error.h>
#include <trainer/optim/lbfgs.h>
#include <trainer/optim/adamw.h>
#include <trainer/optim/optimizer_state.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

using test::copy_values;
using test::equal;
using test::Kind;
using test::kind;
using test::Parameters;
using test::stored;
using test::train;

using torch::Tensor;
using torch::optim::Optimizer;

/// Ours and LibTorch's.
std::vector<Kind> kinds() {
  using namespace torch::optim;  // NOLINT
  auto all = test::our_kinds();
  for (const Kind& stock : {
           kind<Adam>("StockAdam", "", AdamOptions(0.05).weight_decay(0.1)),
           kind<Adam>("StockAdamAmsgrad", "", AdamOptions(0.05).amsgrad(true)),
           kind<AdamW>("StockAdamW", "", AdamWOptions(0.05)),
           kind<AdamW>("StockAdamWAmsgrad", "", AdamWOptions(0.05).amsgrad(true)),
           kind<SGD>("StockSGD", "", SGDOptions(0.05)),
           kind<SGD>("StockSGDNesterov", "", SGDOptions(0.05).momentum(0.9).nesterov(true)),
           kind<RMSprop>("StockRMSprop", "", RMSpropOptions(0.05)),
           kind<RMSprop>("StockRMSpropCentered", "",
                         RMSpropOptions(0.05).momentum(0.5).centered(true)),
           kind<Adagrad>("StockAdagrad", "",
                         AdagradOptions(0.05).lr_decay(0.1).initial_accumulator_value(0.2)),
       }) {
    all.push_back(stock);
  }
  return all;
}

Parameters make_parameters() { return kinds()[0].parameters(); }

class EveryOptimizer : public testing::TestWithParam<Kind> {
 protected:
  /// An optimizer of this kind after `num_steps` steps, and its parameters.
  std::pair<std::unique_ptr<Optimizer>, Parameters> trained(int num_steps) const {
    Parameters parameters = GetParam().parameters();
    auto optimizer = GetParam().make(parameters);
    train(*optimizer, parameters, 0, num_steps);
    return {std::move(optimizer), std::move(parameters)};
  }
};

INSTANTIATE_TEST_SUITE_P(OptimizerState, EveryOptimizer, testing::ValuesIn(kinds()),
                         [](const auto& test) { return test.param.name; });

TEST_P(EveryOptimizer, ResumedInAFreshOneEqualsNeverStoppedBitForBit) {
  for (const int stop : {0, 1, 2, 5}) {
    auto [never_stopped, expected] = trained(stop);
    const auto saved = stored(optimizer_state(*never_stopped));
    Parameters resumed = GetParam().parameters(7);
    auto fresh = GetParam().make(resumed);
    copy_values(expected, resumed);
    load_optimizer_state(*fresh, saved);
    train(*never_stopped, expected, stop, 12);
    train(*fresh, resumed, stop, 12);
    EXPECT_TRUE(equal(resumed, expected)) << "stopped after " << stop;
    EXPECT_TRUE(equal(optimizer_state(*fresh), optimizer_state(*never_stopped)));
  }
}

TEST_P(EveryOptimizer, RolledBackEqualsNeverTried) {
  auto [optimizer, parameters] = trained(2);
  const auto saved = stored(optimizer_state(*optimizer));
  Parameters before = GetParam().parameters();
  copy_values(parameters, before);
  train(*optimizer, parameters, 2, 9);  // Gives the second parameter its first state.
  copy_values(before, parameters);
  load_optimizer_state(*optimizer, saved);
  EXPECT_TRUE(equal(optimizer_state(*optimizer), saved));
  train(*optimizer, parameters, 2, 9);

  auto [never_tried, expected] = trained(9);
  EXPECT_TRUE(equal(parameters, expected));
}

TEST_P(EveryOptimizer, RestoresTheLearningRateOfEachGroup) {
  auto [optimizer, parameters] = trained(2);
  optimizer->param_groups()[0].options().set_lr(0.1 + 0.2);
  optimizer->param_groups()[1].options().set_lr(1e-300);
  const auto saved = stored(optimizer_state(*optimizer));
  Parameters other = GetParam().parameters();
  auto fresh = GetParam().make(other);
  load_optimizer_state(*fresh, saved);
  EXPECT_EQ(fresh->param_groups()[0].options().get_lr(), 0.1 + 0.2);
  EXPECT_EQ(fresh->param_groups()[1].options().get_lr(), 1e-300);
}

TEST_P(EveryOptimizer, KeepsNoTensorOfTheStateItLoaded) {
  auto [optimizer, parameters] = trained(4);
  const auto saved = stored(optimizer_state(*optimizer));
  const auto untouched = stored(saved);
  Parameters other = GetParam().parameters();
  auto fresh = GetParam().make(other);
  load_optimizer_state(*fresh, saved);
  train(*fresh, other, 4, 8);
  EXPECT_TRUE(equal(saved, untouched));
}

TEST_P(EveryOptimizer, TakesItsOwnStateBack) {
  auto [optimizer, parameters] = trained(4);
  const auto before = stored(optimizer_state(*optimizer));
  load_optimizer_state(*optimizer, optimizer_state(*optimizer));
  EXPECT_TRUE(equal(optimizer_state(*optimizer), before));
}

TEST_P(EveryOptimizer, ChangesNothingWhenTheStateDoesNotFit) {
  const auto run = trained(4);
  Optimizer& optimizer = *run.first;
  const auto before = stored(optimizer_state(optimizer));
  const auto refuses = [&](const std::function<void(OptimizerState&)>& damage) {
    auto state = stored(before);
    for (auto& tensors : state.parameters) {
      for (auto& entry : tensors) {
        entry.second.zero_();
      }
    }
    state.groups[0]["lr"] = 123;
    damage(state);
    EXPECT_THROW(load_optimizer_state(optimizer, state), CheckpointError);
    EXPECT_TRUE(equal(optimizer_state(optimizer), before));
  };
  refuses([](OptimizerState& s) { s.parameters.pop_back(); });
  refuses([](OptimizerState& s) { s.parameters.emplace_back(); });
  refuses([](OptimizerState& s) { s.groups.erase(1); });
  refuses([](OptimizerState& s) { s.groups = nullptr; });
  refuses([](OptimizerState& s) { s.groups[1].erase("lr"); });
  refuses([](OptimizerState& s) { s.groups[1] = 3; });
  refuses([](OptimizerState& s) { s.groups[1]["lr"] = "fast"; });
  refuses([](OptimizerState& s) { s.parameters[3]["unknown"] = torch::zeros({}); });
  for (const auto& entry : before.parameters[3]) {
    refuses([&](OptimizerState& s) { s.parameters[3][entry.first] = torch::zeros({7}); });
    refuses([&](OptimizerState& s) { s.parameters[3][entry.first] = Tensor(); });
    if (before.parameters[3].size() > 1) {
      refuses([&](OptimizerState& s) { s.parameters[3].erase(entry.first); });
    }
  }
}

TEST(OptimizerState, HasOneEntryForEachParameterAndGroup) {
  Parameters parameters = make_parameters();
  auto optimizer = kinds()[0].make(parameters);
  auto state = optimizer_state(*optimizer);
  ASSERT_EQ(state.parameters.size(), 5U);
  for (const auto& tensors : state.parameters) {
    EXPECT_TRUE(tensors.empty());
  }
  EXPECT_EQ(state.groups.dump(),
            R"([{"amsgrad":false,"betas":[0.8,0.9],"eps":1e-08,"lr":0.05,"weight_decay":0.01},)"
            R"({"amsgrad":false,"betas":[0.8,0.9],"eps":1e-08,"lr":0.025,"weight_decay":0.01}])");
  train(*optimizer, parameters, 0, 2);
  state = optimizer_state(*optimizer);
  EXPECT_EQ(state.parameters[0].size(), 3U);
  EXPECT_EQ(state.parameters[0].at("exp_avg").sizes(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(state.parameters[2].at("exp_avg_sq").scalar_type(), torch::kBFloat16);
  EXPECT_EQ(state.parameters[0].at("step").item<double>(), 2);
  EXPECT_EQ(state.parameters[3].at("step").item<double>(), 1);
  EXPECT_TRUE(state.parameters[1].empty());
  EXPECT_TRUE(state.parameters[4].empty());
}

TEST(OptimizerState, SharesTheTensors) {
  Parameters parameters = make_parameters();
  auto optimizer = kinds()[0].make(parameters);
  train(*optimizer, parameters, 0, 1);
  const auto state = optimizer_state(*optimizer);
  train(*optimizer, parameters, 1, 2);
  EXPECT_TRUE(torch::equal(state.parameters[0].at("exp_avg"),
                           optimizer_state(*optimizer).parameters[0].at("exp_avg")));
}

TEST(OptimizerState, KeepsTheStepOfLibTorchsOptimizersAsInt64) {
  Parameters parameters = make_parameters();
  auto optimizer =
      kind<torch::optim::Adam>("", "", torch::optim::AdamOptions(0.1)).make(parameters);
  train(*optimizer, parameters, 0, 3);
  const Tensor step = optimizer_state(*optimizer).parameters[0].at("step");
  EXPECT_EQ(step.scalar_type(), torch::kInt64);
  EXPECT_EQ(step.dim(), 0);
  EXPECT_EQ(step.item<int64_t>(), 3);
}

TEST(OptimizerState, ConvertsToTheDtypeOfTheParameters) {
  Parameters parameters = make_parameters();
  auto optimizer = kinds()[0].make(parameters);
  train(*optimizer, parameters, 0, 3);
  auto state = stored(optimizer_state(*optimizer));
  for (auto& tensors : state.parameters) {
    for (auto& [name, tensor] : tensors) {
      tensor = tensor.to(torch::kFloat64);
    }
  }
  Parameters other = make_parameters();
  auto fresh = kinds()[0].make(other);
  load_optimizer_state(*fresh, state);
  EXPECT_TRUE(equal(optimizer_state(*fresh), optimizer_state(*optimizer)));
}

TEST(OptimizerState, RestoresOptionsThatItHasAndKeepsOthers) {
  Parameters parameters = make_parameters();
  auto optimizer = kind<optim::AdamW>("", "", optim::AdamWOptions(0.1).eps(1e-3)).make(parameters);
  auto state = stored(optimizer_state(*optimizer));
  state.groups[0] = {{"lr", 1}, {"betas", {0.25, 0.75}}, {"weight_decay", 0}, {"note", "mine"}};
  load_optimizer_state(*optimizer, state);
  const auto& options =
      static_cast<const optim::AdamWOptions&>(optimizer->param_groups()[0].options());
  EXPECT_EQ(options.lr(), 1);
  EXPECT_EQ(options.betas(), std::make_tuple(0.25, 0.75));
  EXPECT_EQ(options.weight_decay(), 0);
  EXPECT_EQ(options.eps(), 1e-3);
}

TEST(OptimizerState, SaysWhatDoesNotFit) {
  Parameters parameters = make_parameters();
  auto optimizer = kinds()[0].make(parameters);
  train(*optimizer, parameters, 0, 4);
  const auto message = [&](const std::function<void(OptimizerState&)>& damage) {
    auto state = stored(optimizer_state(*optimizer));
    damage(state);
    return thrown<CheckpointError>([&] { load_optimizer_state(*optimizer, state); });
  };
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters.resize(3); }),
            "Optimizer state: found 3 parameters in 2 groups, expected 5 in 2.\n"
            "  Restore it with the module and the parameter groups it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) {
              s.groups[1] = {{"momentum", 0.9}};
            }),
            "Optimizer state: group 1 is {\"momentum\":0.9}, expected an object with lr.\n"
            "  The checkpoint is damaged.");
  EXPECT_EQ(message([](OptimizerState& s) { s.groups[1]["betas"] = 0.9; }),
            "Optimizer state: betas of group 1 is 0.9, expected a value such as [0.8,0.9].\n"
            "  The checkpoint is damaged, or was written with another optimizer.");
  EXPECT_EQ(
      message([](OptimizerState& s) {
        s.parameters[2] = {{"momentum_buffer", torch::zeros({2, 2})}};
      }),
      "Optimizer state: found momentum_buffer for parameter 2 (group 1), expected step, exp_avg, "
      "exp_avg_sq, max_exp_avg_sq (optional).\n"
      "  Restore it with the optimizer it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) {
              s.parameters[0]["exp_avg"] = torch::zeros({4, 3});
            }),
            "Optimizer state: exp_avg of parameter 0 (group 0) is [4, 3], expected [3, 4].\n"
            "  Restore it with the module it was saved with.");
  EXPECT_EQ(message([](OptimizerState& s) { s.parameters[0]["step"] = torch::zeros({1}); }),
            "Optimizer state: step of parameter 0 (group 0) is [1], expected [].\n"
            "  Restore it with the module it was saved with.");
}

// Its step() relies on the state that its constructor makes.
TEST(OptimizerState, RefusesAnEmptyEntryForAdagrad) {
  Parameters parameters = make_parameters();
  auto optimizer =
      kind<torch::optim::Adagrad>("", "", torch::optim::AdagradOptions(0.1)).make(parameters);
  auto state = stored(optimizer_state(*optimizer));
  state.parameters[1].clear();
  EXPECT_EQ(thrown<CheckpointError>([&] { load_optimizer_state(*optimizer, state); }),
            "Optimizer state: found nothing for parameter 1 (group 0), expected step, sum.\n"
            "  Restore it with the optimizer it was saved with.");
}

/// An optimizer of the user without the interface.
class PlainOptimizer : public Optimizer {
 public:
  explicit PlainOptimizer(Parameters parameters)
      : Optimizer(std::move(parameters), std::make_unique<torch::optim::SGDOptions>(0.1)) {}
  Tensor step(LossClosure closure) override { return closure ? closure() : Tensor(); }
};

/// And one with it.
class CountingOptimizer : public PlainOptimizer, public StatefulOptimizer {
 public:
  using PlainOptimizer::PlainOptimizer;
  OptimizerState optimizer_state() const override {
    OptimizerState state;
    state.groups.push_back({{"lr", count}});
    return state;
  }
  void load_optimizer_state(const OptimizerState& state) override { count = state.groups[0]["lr"]; }
  int count = 0;
};

/// A derived class may have a state that nobody would save.
TEST(OptimizerState, IsThereForLibTorchsOptimizersButNotForDerivedClasses) {
  class MySGD : public torch::optim::SGD {
    using SGD::SGD;
  };
  EXPECT_TRUE(has_optimizer_state(torch::optim::LBFGS(make_parameters())));
  EXPECT_TRUE(has_optimizer_state(optim::LBFGS(make_parameters())));
  EXPECT_FALSE(has_optimizer_state(MySGD(make_parameters(), torch::optim::SGDOptions(0.1))));
  for (const Kind& kind : kinds()) {
    EXPECT_TRUE(has_optimizer_state(*kind.make(kind.parameters()))) << kind.name;
  }
}

TEST(OptimizerState, UsesTheInterfaceOfAUsersOptimizer) {
  CountingOptimizer a(make_parameters());
  CountingOptimizer b(make_parameters());
  a.count = 42;
  EXPECT_TRUE(has_optimizer_state(a));
  load_optimizer_state(b, optimizer_state(a));
  EXPECT_EQ(b.count, 42);
}

TEST(OptimizerState, IsRefusedForOthersWithTheirName) {
  const auto expected = [](const std::string& name) {
    return "The state of optimizer " + name +
           " can be neither saved nor restored: it is not one of LibTorch's Adam, AdamW, SGD, "
           "RMSprop, Adagrad and LBFGS.\n  Derive its class from trainer::StatefulOptimizer too, "
           "or use another optimizer.";
  };
  PlainOptimizer plain(make_parameters());
  EXPECT_FALSE(has_optimizer_state(plain));
  const std::string name = "trainer::(anonymous namespace)::PlainOptimizer";
  EXPECT_EQ(thrown<UsageError>([&] { optimizer_state(plain); }), expected(name));
  EXPECT_EQ(thrown<UsageError>([&] { load_optimizer_state(plain, {}); }), expected(name));
}

}  // namespace
}  // namespace trainer
