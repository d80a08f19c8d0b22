#include <trainer/optim/muon.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/ops/linalg_svdvals.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::thrown;

using torch::Tensor;

/// What one step subtracts from a matrix, divided by the learning rate.
Tensor update_of(const Tensor& gradient, MuonOptions options) {
  const Tensor x = torch::zeros(gradient.sizes(), torch::requires_grad());
  x.mutable_grad() = gradient;
  Muon optimizer({x}, options.weight_decay(0).lr(1));
  optimizer.step();
  return -x.detach();
}

TEST(Muon, MakesTheUpdateOrthogonal) {
  torch::manual_seed(7);
  for (const auto& shape : {std::vector<int64_t>{16, 16}, {8, 32}, {32, 8}}) {
    const auto options = MuonOptions().adjust_lr_fn("match_rms_adamw");
    const Tensor update =
        update_of(torch::randn(shape), options) / (0.2 * std::sqrt(std::max(shape[0], shape[1])));
    const Tensor singular = at::linalg_svdvals(update);
    EXPECT_GT(singular.min().item<double>(), 0.3) << shape;
    EXPECT_LT(singular.max().item<double>(), 1.3) << shape;
  }
}

TEST(Muon, DoesNotDependOnTheScaleOfTheGradient) {
  torch::manual_seed(7);
  const Tensor gradient = torch::randn({6, 4});
  // By a power of 2, so that bfloat16 rounds alike.
  EXPECT_TRUE(torch::equal(update_of(gradient, {}), update_of(gradient * 1024, {})));
}

TEST(Muon, ScalesTheLearningRateByTheShape) {
  torch::manual_seed(7);
  for (const auto& shape : {std::vector<int64_t>{2, 8}, {8, 2}}) {
    const Tensor gradient = torch::randn(shape);
    const auto norm = [&](const char* adjust) {
      return update_of(gradient, MuonOptions().adjust_lr_fn(adjust)).norm().item<double>();
    };
    const double ratio = static_cast<double>(shape[0]) / static_cast<double>(shape[1]);
    const double unscaled = norm("spectral_unclamped") / std::sqrt(ratio);
    EXPECT_NEAR(norm("original") / unscaled, std::sqrt(std::max(1.0, ratio)), 1e-5);
    EXPECT_NEAR(norm("match_rms_adamw") / unscaled, 0.2 * std::sqrt(8), 1e-5);
  }
}

TEST(Muon, RefusesWhatIsNoMatrix) {
  const auto message = [](const std::vector<int64_t>& shape) {
    return thrown<UsageError>([&] {
      Muon({torch::zeros({2, 2}, torch::requires_grad()),
            torch::zeros(shape, torch::requires_grad())});
    });
  };
  EXPECT_EQ(message({8}),
            "Muon: found a parameter of shape [8], but it updates matrices only.\n"
            "  Give it the 2-D weights of hidden layers, and the other parameters to AdamW.");
  EXPECT_EQ(message({4, 3, 3, 3}),
            "Muon: found a parameter of shape [4, 3, 3, 3], but it updates matrices only.\n"
            "  Give it the 2-D weights of hidden layers, and the other parameters to AdamW.");
  Muon optimizer({torch::zeros({2, 2}, torch::requires_grad())});
  const Tensor bias = torch::zeros({2}, torch::requires_grad());
  bias.mutable_grad() = torch::ones({2});
  optimizer.add_param_group({std::vector<Tensor>{bias}});
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }),
            "Muon: found a parameter of shape [2], but it updates matrices only.\n"
            "  Give it the 2-D weights of hidden layers, and the other parameters to AdamW.");
}

TEST(Muon, RefusesBadOptions) {
  const auto message = [](const MuonOptions& options) {
    return thrown<UsageError>([&] {
      Muon({torch::zeros({2, 2}, torch::requires_grad())}, options);
    });
  };
  EXPECT_EQ(message(MuonOptions().momentum(1.5)), "Muon: momentum is 1.5, it must be at most 1.");
  EXPECT_EQ(message(MuonOptions().ns_steps(100)),
            "Muon: ns_steps is 100, it must be at least 0 and below 100.");
  EXPECT_EQ(message(MuonOptions().adjust_lr_fn("big")),
            "Muon: adjust_lr_fn is 'big'.\n"
            "  Give it 'original', 'match_rms_adamw' or 'spectral_unclamped'.");
}

}  // namespace
}  // namespace trainer::optim
