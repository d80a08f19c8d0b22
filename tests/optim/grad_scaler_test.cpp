#include <trainer/optim/grad_scaler.h>

#include <cmath>
#include <limits>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/optim/clip.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/thrown.h>

namespace trainer::test {
namespace {

void scale_gradients(Parameters& parameters, double scale) {
  for (auto& parameter : parameters) {
    if (parameter.grad().defined()) {
      parameter.mutable_grad() = parameter.grad() * scale;
    }
  }
}

class EveryOptimizer : public testing::TestWithParam<Kind> {};

/// Scales are powers of two, so that scaling and unscaling lose nothing.
TEST_P(EveryOptimizer, StepsAsWithoutScaleAndSkipsOverflows) {
  const Kind& kind = GetParam();
  const std::set<int> overflows = {0, 5, 6, 9};
  Parameters expected = kind.parameters();
  const auto plain = kind.make(expected);
  Parameters scaled = kind.parameters();
  const auto optimizer = kind.make(scaled);
  GradScaler scaler(torch::kCPU);
  for (int step = 0; step < 15; ++step) {
    set_gradients(scaled, step);
    scale_gradients(scaled, scaler.get_scale());
    if (overflows.contains(step)) {
      const double bad = step == 6 ? std::nan("") : std::numeric_limits<double>::infinity();
      scaled[2].mutable_grad()[0][1].fill_(bad);
    } else {
      set_gradients(expected, step);
      plain->step();
    }
    scaler.step(*optimizer);
    scaler.update();
  }
  EXPECT_EQ(scaler.get_scale(), 65536.0 / 16);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::equal(scaled[i], expected[i])) << "parameter " << i;
  }
  EXPECT_TRUE(equal(optimizer_state(*optimizer), optimizer_state(*plain)));
  // The flag was for those steps: without a scaler the optimizer steps as ever.
  set_gradients(scaled, 20);
  set_gradients(expected, 20);
  optimizer->step();
  plain->step();
  EXPECT_TRUE(equal(scaled, expected));
}

INSTANTIATE_TEST_SUITE_P(GradScaler, EveryOptimizer, testing::ValuesIn(our_kinds()),
                         [](const auto& test) { return test.param.name; });

TEST(GradScaler, SkipsStepsOfLibTorchsOptimizers) {
  const auto weight = torch::ones({2}, torch::requires_grad());
  torch::optim::Adam optimizer({weight}, torch::optim::AdamOptions(0.1));
  GradScaler scaler(torch::kCPU);
  scaler.scale((weight * std::numeric_limits<float>::infinity()).sum()).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_TRUE(torch::equal(weight, torch::ones({2})));
  EXPECT_TRUE(optimizer.state().empty()) << "the step was not counted either";
  scaler.scale((weight * 3).sum()).backward();
  scaler.step(optimizer);
  EXPECT_LT(weight.max().item<float>(), 1);
}

TEST(GradScaler, GrowsAfterAnIntervalAndBacksOffAfterAnOverflow) {
  const auto weight = torch::ones({2}, torch::requires_grad());
  optim::SGD optimizer({weight}, optim::SGDOptions(0.0));
  GradScaler scaler(torch::kCPU, {.init_scale = 8, .growth_interval = 3});
  std::vector<double> scales;
  const auto step = [&](bool overflows) {
    weight.mutable_grad() =
        torch::full({2}, overflows ? std::numeric_limits<float>::infinity() : 1.0F);
    scaler.step(optimizer);
    scaler.update();
    scales.push_back(scaler.get_scale());
  };
  for (const bool overflows :
       {false, false, false, false, true, false, false, true, false, false, false}) {
    step(overflows);
  }
  EXPECT_EQ(scales, (std::vector<double>{8, 8, 16, 16, 8, 8, 8, 4, 4, 4, 8}));
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 8) << "no step, no change";
}

TEST(GradScaler, UnscalesOnceSoThatGradientsCanBeClippedBefore) {
  const auto weight = torch::zeros({4}, torch::requires_grad());
  optim::SGD optimizer({weight}, optim::SGDOptions(1.0));
  GradScaler scaler(torch::kCPU);
  for (int i = 0; i < 2; ++i) {
    optimizer.zero_grad();
    scaler.scale((weight * torch::full({4}, 3.0)).sum()).backward();
    scaler.unscale(optimizer);
    auto all = gradients(optimizer);
    EXPECT_EQ(total_norm(all).item<float>(), 6);
    clip_by_norm(all, total_norm(all), 2.0);
    scaler.step(optimizer);  // not unscaled again
    scaler.update();
    EXPECT_NEAR(weight[0].item<float>(), -(i + 1), 1e-5);
  }
}

TEST(GradScaler, StepsSeveralTimesAndWithSeveralOptimizersInABatch) {
  const auto a = torch::zeros({1}, torch::requires_grad());
  const auto b = torch::zeros({1}, torch::requires_grad());
  optim::SGD first({a}, optim::SGDOptions(1.0));
  optim::SGD second({b}, optim::SGDOptions(1.0));
  GradScaler scaler(torch::kCPU);
  for (int i = 0; i < 2; ++i) {
    first.zero_grad();
    scaler.scale(a.sum()).backward();
    scaler.step(first);
  }
  scaler.scale((b * std::numeric_limits<float>::infinity()).sum()).backward();
  scaler.step(second);
  scaler.update();
  EXPECT_EQ(a.item<float>(), -2);
  EXPECT_EQ(b.item<float>(), 0);
  EXPECT_EQ(scaler.get_scale(), 32768) << "one overflow among several steps";
}

TEST(GradScaler, UnscalesSparseGradients) {
  const auto weight = torch::ones({5, 2}, torch::requires_grad());
  torch::optim::SGD optimizer({weight}, torch::optim::SGDOptions(1.0));
  GradScaler scaler(torch::kCPU);
  const auto rows = torch::embedding(weight, torch::tensor({1, 1, 3}), -1, false, /*sparse=*/true);
  scaler.scale(rows.sum()).backward();
  scaler.step(optimizer);
  EXPECT_TRUE(torch::equal(weight.select(1, 0), torch::tensor({1.0F, -1.0F, 1.0F, 0.0F, 1.0F})));
}

TEST(GradScaler, KeepsItsState) {
  const auto weight = torch::ones({2}, torch::requires_grad());
  optim::SGD optimizer({weight}, optim::SGDOptions(0.0));
  GradScaler scaler(torch::kCPU, {.init_scale = 8, .growth_interval = 3});
  for (int i = 0; i < 2; ++i) {
    weight.mutable_grad() = torch::ones({2});
    scaler.step(optimizer);
    scaler.update();
  }
  const auto state = nlohmann::json::parse(scaler.state_dict().dump());
  EXPECT_EQ(state, (nlohmann::json{{"scale", 8.0},
                                   {"growth_factor", 2.0},
                                   {"backoff_factor", 0.5},
                                   {"growth_interval", 3},
                                   {"_growth_tracker", 2}}));
  GradScaler restored(torch::kCPU);
  restored.load_state_dict(state);
  restored.step(optimizer);
  restored.update();
  EXPECT_EQ(restored.get_scale(), 16);
}

TEST(GradScaler, RefusesWhatCannotWork) {
  const auto weight = torch::ones({2}, torch::dtype(torch::kFloat16).requires_grad(true));
  weight.mutable_grad() = torch::ones_like(weight);
  optim::SGD optimizer({weight}, optim::SGDOptions(0.1));
  GradScaler scaler(torch::kCPU);
  EXPECT_EQ(
      thrown<UsageError>([&] { scaler.unscale(optimizer); }),
      "GradScaler: a gradient of shape [2] is float16, which has no room for a scale. Keep "
      "the parameters in float32 (precision 16-mixed), or train in 16-true without a scaler.");
  for (const auto& options :
       {GradScalerOptions{.init_scale = 0}, GradScalerOptions{.growth_factor = 1},
        GradScalerOptions{.backoff_factor = 1}, GradScalerOptions{.growth_interval = 0}}) {
    EXPECT_THROW(GradScaler(torch::kCPU, options), UsageError);
  }
}

}  // namespace
}  // namespace trainer::test
