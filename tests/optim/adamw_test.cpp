#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/adamw.h>

#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::thrown;

using torch::Tensor;
using torch::optim::OptimizerParamGroup;

std::vector<Tensor> make_parameters(torch::ScalarType dtype) {
  torch::manual_seed(5);
  std::vector<Tensor> result;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{8, 5}, {8}, {}, {0, 3}, {2, 3, 3}, {37}}) {
    result.push_back(torch::randn(shape, torch::kFloat64).to(dtype).requires_grad_());
  }
  return result;
}

AdamWOptions first_options() {
  return AdamWOptions(3e-2).betas({0.8, 0.95}).eps(1e-6).weight_decay(0.1);
}
AdamWOptions second_options() { return AdamWOptions(1e-2).weight_decay(0).amsgrad(true); }

/// The first three parameters with some options, the others with other ones.
std::vector<OptimizerParamGroup> make_groups(const std::vector<Tensor>& p) {
  std::vector<OptimizerParamGroup> groups;
  groups.emplace_back(std::vector(p.begin(), p.begin() + 3),
                      std::make_unique<AdamWOptions>(first_options()));
  groups.emplace_back(std::vector(p.begin() + 3, p.end()),
                      std::make_unique<AdamWOptions>(second_options()));
  return groups;
}

/// Random gradients, the same for the same step; after step 0 about a third of them are undefined.
void set_gradients(std::vector<Tensor>& parameters, int step) {
  torch::manual_seed(100 + step);
  for (Tensor& parameter : parameters) {
    const bool defined = step == 0 || torch::rand({}).item<double>() < 0.67;
    const Tensor gradient = torch::randn(parameter.sizes(), torch::kFloat64);
    parameter.mutable_grad() = defined ? gradient.to(parameter.scalar_type()) : Tensor();
  }
}

/// The algorithm as the paper has it, one parameter at a time.
struct Reference {
  AdamWOptions options;
  Tensor parameter;
  Tensor exp_avg = torch::zeros_like(parameter);
  Tensor exp_avg_sq = torch::zeros_like(parameter);
  Tensor max_exp_avg_sq = torch::zeros_like(parameter);
  int64_t t = 0;

  void step(const Tensor& gradient) {
    if (!gradient.defined()) {
      return;
    }
    ++t;
    const auto [beta1, beta2] = options.betas();
    exp_avg = beta1 * exp_avg + (1 - beta1) * gradient;
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * gradient * gradient;
    const Tensor exp_avg_hat = exp_avg / (1 - std::pow(beta1, t));
    max_exp_avg_sq = torch::maximum(max_exp_avg_sq, exp_avg_sq);
    const Tensor exp_avg_sq_hat =
        (options.amsgrad() ? max_exp_avg_sq : exp_avg_sq) / (1 - std::pow(beta2, t));
    parameter = parameter - options.lr() * (exp_avg_hat / (exp_avg_sq_hat.sqrt() + options.eps()) +
                                            options.weight_decay() * parameter);
  }
};

TEST(AdamW, EqualsTheAlgorithmInFloat64) {
  auto parameters = make_parameters(torch::kFloat64);
  std::vector<Reference> references;
  for (size_t i = 0; i < parameters.size(); ++i) {
    references.push_back({.options = i < 3 ? first_options() : second_options(),
                          .parameter = parameters[i].detach().clone()});
  }
  AdamW optimizer(make_groups(parameters));
  for (int step = 0; step < 50; ++step) {
    set_gradients(parameters, step);
    optimizer.step();
    for (size_t i = 0; i < parameters.size(); ++i) {
      references[i].step(parameters[i].grad());
      ASSERT_TRUE(torch::allclose(parameters[i], references[i].parameter, 0, 1e-12))
          << "parameter " << i << " at step " << step;
    }
  }
}

TEST(AdamW, EqualsLibTorchsAdamWInFloat32) {
  auto ours = make_parameters(torch::kFloat32);
  auto theirs = make_parameters(torch::kFloat32);
  AdamW optimizer(make_groups(ours));
  torch::optim::AdamW reference(make_groups(theirs));
  for (int step = 0; step < 50; ++step) {
    set_gradients(ours, step);
    set_gradients(theirs, step);
    optimizer.step();
    reference.step();
    for (size_t i = 0; i < ours.size(); ++i) {
      ASSERT_TRUE(torch::allclose(ours[i], theirs[i], 0, 1e-6))
          << "parameter " << i << " at step " << step;
    }
  }
}

TEST(AdamW, SwitchesAmsgradBetweenSteps) {
  auto parameters = make_parameters(torch::kFloat64);
  AdamW optimizer(parameters);
  Reference reference{.options = AdamWOptions(), .parameter = parameters[0].detach().clone()};
  for (int step = 0; step < 9; ++step) {
    const bool amsgrad = step >= 3 && step < 6;
    if (step == 3) {
      reference.max_exp_avg_sq.zero_();  // The maximum counts from the first step with amsgrad.
    }
    static_cast<AdamWOptions&>(optimizer.param_groups()[0].options()).amsgrad(amsgrad);
    reference.options.amsgrad(amsgrad);
    set_gradients(parameters, 0);
    parameters[0].mutable_grad() *= 1.0 / (step + 1);
    optimizer.step();
    reference.step(parameters[0].grad());
    ASSERT_TRUE(torch::allclose(parameters[0], reference.parameter, 0, 1e-12)) << step;
  }
}

TEST(AdamW, FollowsTheLearningRateOfEachGroup) {
  auto parameters = make_parameters(torch::kFloat64);
  AdamW optimizer(make_groups(parameters));
  set_gradients(parameters, 0);
  optimizer.step();
  const Tensor first = parameters[0].detach().clone();
  const Tensor second = parameters[4].detach().clone();
  optimizer.param_groups()[0].options().set_lr(0);
  optimizer.step();
  EXPECT_TRUE(torch::equal(parameters[0], first));
  EXPECT_FALSE(torch::equal(parameters[4], second));
}

// Adam's first step is lr * sign(gradient), whatever the gradient.
TEST(AdamW, TakesEveryFloatingDtypeAndKeepsItsStateInIt) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    auto parameters = make_parameters(dtype);
    std::vector<Tensor> before;
    for (const Tensor& parameter : parameters) {
      before.push_back(parameter.detach().clone());
    }
    AdamW optimizer(parameters, AdamWOptions(0.125).weight_decay(0));
    set_gradients(parameters, 0);
    optimizer.step();
    const auto state = optimizer.optimizer_state();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor expected = before[i] - 0.125 * parameters[i].grad().sign();
      EXPECT_TRUE(torch::allclose(parameters[i], expected, 0.01, 0.01)) << dtype << " " << i;
      EXPECT_EQ(state.parameters[i].at("exp_avg").scalar_type(), dtype);
      EXPECT_EQ(state.parameters[i].at("exp_avg_sq").scalar_type(), dtype);
      EXPECT_EQ(state.parameters[i].at("step").scalar_type(), torch::kFloat32);
    }
  }
}

TEST(AdamW, UpdatesAGroupOfMixedDtypesAsGroupsOfOne) {
  std::vector<Tensor> mixed;
  auto wide = make_parameters(torch::kFloat64);
  auto narrow = make_parameters(torch::kBFloat16);
  auto wide_alone = make_parameters(torch::kFloat64);
  auto narrow_alone = make_parameters(torch::kBFloat16);
  for (size_t i = 0; i < wide.size(); ++i) {
    mixed.push_back(wide[i]);
    mixed.push_back(narrow[i]);
  }
  AdamW optimizer(mixed);
  AdamW for_wide(wide_alone);
  AdamW for_narrow(narrow_alone);
  for (int step = 0; step < 10; ++step) {
    for (auto* parameters : {&wide, &narrow, &wide_alone, &narrow_alone}) {
      set_gradients(*parameters, step);
    }
    optimizer.step();
    for_wide.step();
    for_narrow.step();
  }
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_TRUE(torch::equal(wide[i], wide_alone[i]));
    EXPECT_TRUE(torch::equal(narrow[i], narrow_alone[i]));
  }
}

TEST(AdamW, LeavesParametersWithoutGradientAloneAndDoesNotCountTheStep) {
  const Tensor trained = torch::ones({3}, torch::requires_grad());
  const Tensor unused = torch::ones({3}, torch::requires_grad());
  const Tensor frozen = torch::ones({3});
  AdamW optimizer({trained, unused, frozen}, AdamWOptions(0.1).weight_decay(0.5));
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    (trained.sum() + (step == 1 ? unused.sum() : torch::zeros({}))).backward();
    const Tensor before = unused.detach().clone();
    optimizer.step();
    EXPECT_EQ(torch::equal(unused, before), step != 1);
  }
  EXPECT_TRUE(torch::equal(frozen, torch::ones({3})));
  const auto state = optimizer.optimizer_state();
  EXPECT_EQ(state.parameters[0].at("step").item<double>(), 3);
  EXPECT_EQ(state.parameters[1].at("step").item<double>(), 1);
  EXPECT_TRUE(state.parameters[2].empty());
}

TEST(AdamW, EvaluatesTheClosureWithGradientsThenUpdates) {
  const Tensor x = torch::full({1}, 2.0, torch::requires_grad());
  AdamW optimizer({x}, AdamWOptions(0.5).weight_decay(0));
  const torch::NoGradGuard no_grad;
  const Tensor loss = optimizer.step([&] {
    optimizer.zero_grad();
    const Tensor value = x.square().sum();
    value.backward();
    return value;
  });
  EXPECT_EQ(loss.item<double>(), 4);
  EXPECT_NEAR(x.item<double>(), 1.5, 1e-6);
  EXPECT_FALSE(optimizer.step().defined());
}

TEST(AdamW, LetsGoOfTheGradients) {
  auto parameters = make_parameters(torch::kFloat32);
  AdamW optimizer(parameters);
  set_gradients(parameters, 0);
  optimizer.step();
  for (const Tensor& parameter : parameters) {
    EXPECT_EQ(parameter.grad().use_count(), 1U);
  }
}

// The kernel reads memory in order and no strides.
TEST(AdamW, DoesNotDependOnTheMemoryLayout) {
  const auto contiguous = torch::MemoryFormat::Contiguous;
  const auto channels_last = torch::MemoryFormat::ChannelsLast;
  torch::manual_seed(1);
  const Tensor initial = torch::randn({4, 3, 2, 5});
  const Tensor gradient = torch::randn({4, 3, 2, 5});
  std::vector<Tensor> results;
  for (const auto parameter_format : {contiguous, channels_last}) {
    for (const auto gradient_format : {contiguous, channels_last}) {
      const Tensor x = initial.clone(parameter_format).requires_grad_();
      x.mutable_grad() = gradient.clone(gradient_format);
      AdamW optimizer({x});
      optimizer.step();
      optimizer.step();
      EXPECT_TRUE(x.is_contiguous(parameter_format));
      results.push_back(x.detach());
    }
  }
  for (const Tensor& result : results) {
    EXPECT_TRUE(torch::equal(result, results[0]));
  }
}

TEST(AdamW, TakesGradientsWhoseStridesDifferOnlyInDimsOfSizeOne) {
  const Tensor x = torch::zeros({2, 1, 3}, torch::requires_grad());
  x.mutable_grad() = torch::randn({2, 3}).as_strided({2, 1, 3}, {3, 1, 1});
  ASSERT_NE(x.grad().strides(), x.strides());
  AdamW optimizer({x}, AdamWOptions(0.5));
  optimizer.step();
  EXPECT_TRUE(torch::allclose(x, -0.5 * x.grad().sign(), 1e-4));
}

TEST(AdamW, UpdatesAGroupThatWasAddedLater) {
  auto parameters = make_parameters(torch::kFloat32);
  AdamW optimizer(std::vector(parameters.begin(), parameters.begin() + 2));
  set_gradients(parameters, 0);
  optimizer.step();
  optimizer.add_param_group({{parameters[4]}, std::make_unique<AdamWOptions>(0.25)});
  const Tensor before = parameters[4].detach().clone();
  optimizer.step();
  EXPECT_NEAR((parameters[4] - before).abs().max().item<double>(), 0.25, 0.02);
  EXPECT_EQ(optimizer.optimizer_state().parameters[2].at("step").item<double>(), 1);
}

TEST(AdamW, RefusesBadOptions) {
  const std::vector<Tensor> parameters = {torch::zeros({2}, torch::requires_grad())};
  const auto message = [&](const AdamWOptions& options) {
    return thrown<UsageError>([&] { const AdamW optimizer(parameters, options); });
  };
  EXPECT_EQ(message(AdamWOptions(-0.1)), "AdamW: lr is -0.1, it must be at least 0.");
  EXPECT_EQ(message(AdamWOptions(std::numeric_limits<double>::quiet_NaN())),
            "AdamW: lr is nan, it must be at least 0.");
  EXPECT_EQ(message(AdamWOptions().eps(-1)), "AdamW: eps is -1, it must be at least 0.");
  EXPECT_EQ(message(AdamWOptions().weight_decay(-1)),
            "AdamW: weight_decay is -1, it must be at least 0.");
  EXPECT_EQ(message(AdamWOptions().betas({1.0, 0.5})),
            "AdamW: betas are (1, 0.5), both must be at least 0 and below 1.");
  EXPECT_EQ(message(AdamWOptions().betas({0.5, -0.5})),
            "AdamW: betas are (0.5, -0.5), both must be at least 0 and below 1.");
  std::vector<OptimizerParamGroup> groups;
  groups.emplace_back(parameters, std::make_unique<AdamWOptions>(-2));
  EXPECT_EQ(thrown<UsageError>([&] { const AdamW optimizer(groups); }),
            "AdamW: lr is -2, it must be at least 0.");
}

TEST(AdamW, RefusesTheOptionsOfAnotherOptimizer) {
  std::vector<OptimizerParamGroup> groups;
  groups.emplace_back(std::vector{torch::zeros({2}, torch::requires_grad())},
                      std::make_unique<torch::optim::SGDOptions>(0.1));
  const std::string expected =
      "AdamW: a parameter group has the options of another optimizer.\n"
      "  Give it trainer::optim::AdamWOptions, or none for the defaults.";
  EXPECT_EQ(thrown<UsageError>([&] { const AdamW optimizer(groups); }), expected);
  AdamW optimizer({torch::zeros({2}, torch::requires_grad())});
  optimizer.param_groups()[0].set_options(std::make_unique<torch::optim::SGDOptions>(0.1));
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }), expected);
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.optimizer_state(); }), expected);
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.load_optimizer_state({}); }), expected);
}

TEST(AdamW, RefusesGradientsThatTheKernelCannotRead) {
  const Tensor x = torch::zeros({3}, torch::requires_grad());
  AdamW optimizer({x});
  x.mutable_grad() = torch::ones({3}).to_sparse();
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }),
            "AdamW: the gradient of a parameter of shape [3] is sparse.\n"
            "  Make the embedding without sparse(true), or use torch::optim::SGD.");
  x.mutable_grad() = torch::ones({2});
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }),
            "AdamW: the gradient of a parameter of shape [3] has shape [2].\n"
            "  Give it a gradient of its own shape.");
  x.mutable_grad() = torch::ones({3});
  optimizer.step();
  EXPECT_EQ(optimizer.optimizer_state().parameters[0].at("step").item<double>(), 1);
}

TEST(AdamW, RefusesParametersThatTheKernelWouldDamage) {
  const Tensor whole = torch::zeros({3, 4});
  const Tensor part = whole.slice(1, 0, 2).requires_grad_();
  part.mutable_grad() = torch::ones({3, 2});
  AdamW for_part({part});
  EXPECT_EQ(thrown<UsageError>([&] { for_part.step(); }),
            "AdamW: the memory of a parameter has gaps, which the fused kernel would overwrite: "
            "[3, 2] with strides [4, 1], Float on cpu.\n  Make it from tensor.contiguous().");
  EXPECT_TRUE(torch::equal(whole, torch::zeros({3, 4})));

  Tensor x = torch::zeros({2, 3}, torch::requires_grad());
  x.mutable_grad() = torch::ones({2, 3});
  AdamW optimizer({x});
  optimizer.step();
  x.set_data(torch::zeros({2, 3}, torch::kFloat64));
  x.mutable_grad() = torch::ones({2, 3}, torch::kFloat64);
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }),
            "AdamW: a parameter was [2, 3] with strides [3, 1], Float on cpu at its first step and "
            "is [2, 3] with strides [3, 1], Double on cpu now.\n"
            "  Move or convert the module before the first step.");
  x.set_data(torch::zeros({5}));
  x.mutable_grad() = torch::ones({5});
  EXPECT_EQ(thrown<UsageError>([&] { optimizer.step(); }),
            "AdamW: a parameter was [2, 3] with strides [3, 1], Float on cpu at its first step and "
            "is [5] with strides [1], Float on cpu now.\n"
            "  Move or convert the module before the first step.");
}

}  // namespace
}  // namespace trainer::optim
