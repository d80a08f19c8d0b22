// Optimizers that need more than this rank's segments of the parameters, and those that FSDP
// refuses, under real mpirun.

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <strategies/fsdp.h>
#include <trainer/core/error.h>
#include <trainer/optim/whole_tensors.h>

#include <tests/support/thrown.h>

namespace trainer::test {
namespace {

namespace nn = torch::nn;

/// Moves each row by its gradients' distance from their mean, all as long as the whole is.
class Centered : public torch::optim::Optimizer, public UsesWholeTensors {
 public:
  explicit Centered(const std::vector<torch::Tensor>& parameters)
      : Optimizer({torch::optim::OptimizerParamGroup(parameters)},
                  std::make_unique<torch::optim::SGDOptions>(0.1)) {}

  torch::Tensor step(LossClosure) override {
    const torch::NoGradGuard no_grad;
    const auto& parameters = param_groups()[0].params();
    WholeTensors::Tensors gradients, squares;
    for (const auto& parameter : parameters) {
      gradients.push_back(parameter.grad());
      squares.push_back(parameter.grad().square().sum());
      sizes.push_back(whole().sizes(parameter));
    }
    const auto sums = torch::stack(squares);
    whole().sum(sums);
    whole().change_each(
        parameters, gradients,
        [](const torch::Tensor& gradient) {
          return gradient - gradient.mean(/*dim=*/-1, /*keepdim=*/true);
        },
        [&](size_t i, const torch::Tensor& change) {
          parameters[i].add_(change / sums[static_cast<int64_t>(i)]);
        });
    return {};
  }

  std::vector<std::vector<int64_t>> sizes;
};

nn::Sequential layers() {
  torch::manual_seed(3);
  nn::Sequential made(nn::Linear(5, 7), nn::Tanh(), nn::Linear(7, 3), nn::Linear(3, 11));
  made->to(torch::kFloat64);
  return made;
}

void run_backward(nn::Sequential& module) {
  module->forward(torch::linspace(-1, 1, 20, torch::kFloat64).view({4, 5}))
      .square()
      .sum()
      .backward();
}

std::unique_ptr<FSDP> shard(nn::Sequential& module) {
  auto fsdp = std::make_unique<FSDP>(FSDP::Init{.intercept = "observer"});
  fsdp->set_device(torch::kCPU);
  fsdp->setup_module(*module);
  return fsdp;
}

TEST(FSDPOptimizers, OneThatNeedsWholeTensorsUpdatesSegmentsAsWholes) {
  auto expected = layers();
  Centered alone(expected->parameters());
  auto module = layers();
  const auto fsdp = shard(module);
  Centered sharded(module->parameters());
  for (int step = 0; step < 3; ++step) {
    expected->zero_grad();
    run_backward(expected);
    alone.step(nullptr);
    fsdp->zero_gradients(sharded);
    run_backward(module);
    fsdp->finish_gradient_sync();
    fsdp->optimizer_step(sharded, nullptr);
  }
  fsdp->teardown_module(*module);
  EXPECT_EQ(sharded.sizes, alone.sizes);
  for (const auto& item : expected->named_parameters()) {
    EXPECT_TRUE(torch::allclose(module->named_parameters()[item.key()], item.value(), 1e-12, 1e-12))
        << item.key();
  }
}

TEST(FSDPOptimizers, RefusesThoseOfLibTorchThatCannotUpdateSegments) {
  auto module = layers();
  const auto fsdp = shard(module);
  torch::optim::LBFGS lbfgs(module->parameters());
  EXPECT_EQ(thrown<UsageError>([&] { fsdp->optimizer_step(lbfgs, nullptr); }),
            "FSDP: LBFGS evaluates the loss within its step, in which parameters are this rank's "
            "segments of them. Train with another optimizer, or in one process without sharding.");
  torch::optim::Adagrad adagrad(module->parameters());
  EXPECT_EQ(thrown<UsageError>([&] { fsdp->optimizer_step(adagrad, nullptr); }),
            "FSDP: torch::optim::Adagrad keeps a number for each element of whole parameters, of "
            "which a rank has segments. Use trainer::optim::Adagrad.");
  Centered outside({torch::ones({2, 2}, torch::requires_grad())});
  outside.param_groups()[0].params()[0].mutable_grad() = torch::ones({2, 2});
  EXPECT_EQ(thrown<UsageError>([&] { fsdp->optimizer_step(outside, nullptr); }),
            "FSDP: the optimizer has a parameter that the module did not have when it was sharded. "
            "Register it in the constructor or configure_model().");
}

}  // namespace
}  // namespace trainer::test
