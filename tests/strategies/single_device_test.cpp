#include <strategies/single_device.h>

#include <cmath>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace trainer {
namespace {

TEST(SingleDevice, IsTheOnlyRankOnTheDeviceItIsGiven) {
  SingleDevice strategy;
  EXPECT_EQ(strategy.rank(), 0);
  EXPECT_EQ(strategy.world_size(), 1);
  EXPECT_EQ(strategy.device(), torch::kCPU);
  strategy.set_device(torch::kMeta);
  EXPECT_EQ(strategy.device(), torch::kMeta);
  struct Moved : torch::nn::Module {
    using torch::nn::Module::to;
    void to(torch::Device device, bool) override { device_ = device; }
    torch::Device device_ = torch::kCPU;
  } module;
  strategy.setup_module(module);
  EXPECT_EQ(module.device_, torch::kMeta);
}

TEST(SingleDevice, ClipsTheNormOfAllGradientsTogetherAndReturnsTheOldOne) {
  SingleDevice strategy;
  torch::nn::Linear linear(3, 1);
  torch::optim::SGD optimizer(linear->parameters(), 0.1);
  linear->weight.mutable_grad() = torch::tensor({{1.0F, 2.0F, 2.0F}});
  linear->bias.mutable_grad() = torch::tensor({4.0F});
  EXPECT_FLOAT_EQ(strategy.clip_gradients(optimizer, 10).item<float>(), 5);
  EXPECT_FLOAT_EQ(linear->bias.grad().item<float>(), 4) << "below the limit nothing changes";
  EXPECT_FLOAT_EQ(strategy.clip_gradients(optimizer, 1).item<float>(), 5);
  EXPECT_NEAR(linear->weight.grad()[0][0].item<float>(), 0.2, 1e-5);
  EXPECT_NEAR(linear->bias.grad().item<float>(), 0.8, 1e-5);
}

TEST(SingleDevice, StepEvaluatesTheClosureAndZeroingFreesGradients) {
  SingleDevice strategy;
  const auto weight = torch::ones({1}, torch::requires_grad());
  torch::optim::SGD optimizer({weight}, 0.5);
  const auto loss = strategy.optimizer_step(optimizer, [&] {
    auto value = (weight * weight).sum();
    value.backward();
    return value;
  });
  EXPECT_EQ(loss.item<float>(), 1);
  EXPECT_EQ(weight.item<float>(), 0);  // 1 - 0.5 * 2
  EXPECT_TRUE(weight.grad().defined());
  strategy.zero_gradients(optimizer);
  EXPECT_FALSE(weight.grad().defined());
}

TEST(SingleDevice, ReducesToTheValueItself) {
  SingleDevice strategy;
  for (const auto op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
    auto values = torch::tensor({3.0F, -1.0F});
    strategy.all_reduce(values, op);
    EXPECT_TRUE(torch::equal(values, torch::tensor({3.0F, -1.0F})));
  }
}

}  // namespace
}  // namespace trainer
