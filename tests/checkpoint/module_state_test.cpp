#include <trainer/checkpoint/module_state.h>

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <trainer/core/error.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::TempDir;
using test::thrown;

std::vector<std::string> names_of(const safetensors::Tensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    names.push_back(name);
  }
  return names;
}

safetensors::File saved(const fs::Path& path, const safetensors::Tensors& tensors) {
  safetensors::save(path, tensors);
  return safetensors::File(path);
}

torch::nn::Sequential make_network() {
  return torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4));
}

TEST(ModuleState, HasTheDottedNamesOfPythonAndEveryValue) {
  const TempDir dir;
  auto network = make_network();
  network->forward(torch::rand({8, 3}));  // moves the running mean and variance
  const auto state = module_state(*network);
  EXPECT_EQ(names_of(state),
            (std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean",
                                      "1.running_var", "1.num_batches_tracked"}));
  auto other = make_network();
  load_module_state(*other, saved(dir / "m", state));
  const auto loaded = module_state(*other);
  for (size_t i = 0; i < state.size(); ++i) {
    EXPECT_TRUE(torch::equal(loaded[i].second, state[i].second)) << state[i].first;
    EXPECT_FALSE(state[i].second.requires_grad()) << state[i].first;
  }
  for (const auto& parameter : other->parameters()) {
    EXPECT_TRUE(parameter.requires_grad());
  }
}

struct Tied : torch::nn::Module {
  Tied() {
    weight = register_parameter("embedding", torch::rand({4, 2}));
    register_parameter("head", weight);
    register_buffer("count", torch::tensor({3}));
  }
  torch::Tensor weight;
};

TEST(ModuleState, HoldsTiedWeightsOnceAndLoadsThemForAll) {
  const TempDir dir;
  Tied module;
  const auto state = module_state(module);
  ASSERT_EQ(state.size(), 2U);
  EXPECT_EQ(state[0].first, "embedding");
  EXPECT_EQ(state[1].first, "count");
  safetensors::save(dir / "m", state);
  Tied other;
  load_module_state(other, safetensors::File(dir / "m"));
  EXPECT_TRUE(torch::equal(other.weight, module.weight));
  EXPECT_TRUE(other.named_parameters()["head"].is_same(other.named_parameters()["embedding"]));
}

TEST(ModuleState, OfAnotherArchitectureIsRefusedWithEveryDifference) {
  const TempDir dir;
  safetensors::save(dir / "m",
                    {{"bias", torch::zeros({3}, torch::kInt64)}, {"extra", torch::zeros({1, 7})}});
  torch::nn::Linear linear(2, 3);
  const auto before = linear->weight.detach().clone();
  EXPECT_EQ(
      thrown<CheckpointError>([&] { load_module_state(*linear, safetensors::File(dir / "m")); }),
      (dir / "m").string() +
          ": belongs to another architecture:\n"
          "  missing in the checkpoint: weight [3, 2] Float\n"
          "  other shape: bias is [3] Long in the checkpoint, [3] Float in the module\n"
          "  not in the module: extra [1, 7] Float\n"
          "  Use the configuration that the checkpoint was made with (config.yaml lies in it), or "
          "another checkpoint.");
  EXPECT_TRUE(torch::equal(linear->weight, before));
}

TEST(ModuleState, IsConvertedToTheModulesFloatingPointFormat) {
  const TempDir dir;
  const auto weight = torch::full({3, 2}, 0.5, torch::kBFloat16);
  safetensors::save(dir / "m", {{"weight", weight}, {"bias", torch::ones({3}, torch::kFloat64)}});
  torch::nn::Linear linear(2, 3);
  load_module_state(*linear, safetensors::File(dir / "m"));
  EXPECT_TRUE(torch::equal(linear->weight, torch::full({3, 2}, 0.5)));
  EXPECT_TRUE(torch::equal(linear->bias, torch::ones({3})));
}

TEST(InitModuleState, TakesWhatFitsAndTellsOfTheRest) {
  const TempDir dir;
  torch::nn::Linear linear(2, 3);
  const auto bias = linear->bias.detach().clone();
  const auto weight = torch::randn({3, 2});
  const auto file = saved(dir / "w", {{"weight", weight.to(torch::kDouble)},
                                      {"bias", torch::zeros(4)},
                                      {"head.weight", torch::zeros({1, 7})}});
  EXPECT_EQ(init_module_state(*linear, file),
            (dir / "w").string() +
                ": 1 of the module's 2 tensors are taken\n"
                "  kept as made: bias [3] Float, which is [4] Float in the file\n"
                "  left aside: head.weight [1, 7] Float, which the module does not have");
  EXPECT_TRUE(torch::equal(linear->weight, weight));
  EXPECT_TRUE(torch::equal(linear->bias, bias));
  EXPECT_THROW(init_module_state(*linear, saved(dir / "n", {{"other", weight}})), CheckpointError);
}

/// Two steps of the optimizer, so that it has a state.
void train(torch::nn::Module& module, torch::optim::Optimizer& optimizer) {
  for (int step = 0; step < 2; ++step) {
    for (auto& parameter : module.parameters()) {
      parameter.mutable_grad() = torch::ones_like(parameter);
    }
    optimizer.step();
  }
}

TEST(OptimizerTensors, AreNamedAfterTheirParametersAndLoadBack) {
  const TempDir dir;
  torch::nn::Linear linear(2, 3);
  const auto stranger = torch::ones({1}, torch::requires_grad());
  auto parameters = linear->parameters();
  parameters.push_back(stranger);
  torch::optim::AdamW optimizer(parameters);
  stranger.mutable_grad() = torch::ones({1});
  train(*linear, optimizer);
  const auto tensors = optimizer_part(*linear, optimizer).tensors;
  EXPECT_EQ(
      names_of(tensors),
      (std::vector<std::string>{
          "weight.exp_avg", "weight.exp_avg_sq", "weight.step", "bias.exp_avg", "bias.exp_avg_sq",
          "bias.step", "optimizer.2.exp_avg", "optimizer.2.exp_avg_sq", "optimizer.2.step"}));

  torch::optim::AdamW fresh(parameters, torch::optim::AdamWOptions(0.5));
  load_optimizer(*linear, fresh, saved(dir / "o", tensors), optimizer_groups(optimizer));
  const auto loaded = optimizer_part(*linear, fresh).tensors;
  ASSERT_EQ(names_of(loaded), names_of(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(torch::equal(loaded[i].second, tensors[i].second)) << tensors[i].first;
  }
  EXPECT_EQ(optimizer_groups(fresh), optimizer_groups(optimizer));
}

TEST(OptimizerTensors, OfAParameterThatIsNotThereAreRefused) {
  const TempDir dir;
  torch::nn::Linear linear(2, 3);
  torch::optim::SGD optimizer(linear->parameters(), torch::optim::SGDOptions(0.1));
  for (const std::string key : {"gate.exp_avg", "weight", "optimizer.2.step"}) {
    const auto file = saved(dir / "o", {{key, torch::zeros(1)}});
    EXPECT_EQ(thrown<CheckpointError>(
                  [&] { load_optimizer(*linear, optimizer, file, optimizer_groups(optimizer)); }),
              (dir / "o").string() + ": has optimizer state '" + key +
                  "', but the optimizer has no such parameter.\n  Use the configuration that the "
                  "checkpoint was made with.");
  }
}

}  // namespace
}  // namespace trainer
