#include <trainer/optim/sgd.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::thrown;

using torch::Tensor;

// The kernel has one flag for all parameters of a call.
TEST(SGD, StartsTheMomentumOfEachParameterWithItsFirstGradient) {
  const auto options = SGDOptions(0.1).momentum(0.9).dampening(0.25);
  std::vector<Tensor> ours;
  std::vector<Tensor> theirs;
  for (int i = 0; i < 4; ++i) {
    ours.push_back(torch::ones({3}, torch::dtype(torch::kFloat64).requires_grad(true)));
    theirs.push_back(torch::ones({3}, torch::dtype(torch::kFloat64).requires_grad(true)));
  }
  SGD optimizer(ours, options);
  torch::optim::SGD reference(theirs, options);
  for (int step = 0; step < 8; ++step) {
    torch::manual_seed(step);
    for (int i = 0; i < 4; ++i) {  // The parameters join one after another, not in their order.
      const Tensor gradient = torch::randn({3}, torch::kFloat64);
      const bool defined = step >= (i * 3) % 4;
      ours[i].mutable_grad() = defined ? gradient : Tensor();
      theirs[i].mutable_grad() = defined ? gradient.clone() : Tensor();
    }
    optimizer.step();
    reference.step();
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(torch::allclose(ours[i], theirs[i], 0, 1e-14)) << i << " at step " << step;
    }
  }
}

TEST(SGD, KeepsNothingWithoutMomentum) {
  const Tensor x = torch::ones({3}, torch::requires_grad());
  x.mutable_grad() = torch::ones({3});
  SGD optimizer({x}, SGDOptions(0.5));
  optimizer.step();
  EXPECT_TRUE(torch::equal(x, torch::full({3}, 0.5)));
  EXPECT_TRUE(optimizer.optimizer_state().parameters[0].empty());
}

TEST(SGD, RefusesNesterovWithoutMomentumOrWithDampening) {
  const Tensor x = torch::ones({3}, torch::requires_grad());
  EXPECT_EQ(thrown<UsageError>([&] { SGD({x}, SGDOptions(0.1).nesterov(true)); }),
            "SGD: nesterov with momentum 0 and dampening 0.\n"
            "  Give it a momentum above 0 and dampening 0, or set nesterov to false.");
  EXPECT_EQ(thrown<UsageError>(
                [&] { SGD({x}, SGDOptions(0.1).nesterov(true).momentum(0.5).dampening(0.1)); }),
            "SGD: nesterov with momentum 0.5 and dampening 0.1.\n"
            "  Give it a momentum above 0 and dampening 0, or set nesterov to false.");
}

}  // namespace
}  // namespace trainer::optim
