#include <trainer/optim/multi_tensor.h>

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::Groups;
using test::Kind;
using test::Parameters;
using test::thrown;

using torch::Tensor;

class EveryAlgorithm : public testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<torch::optim::Optimizer> make(const Parameters& parameters) const {
    Groups groups;
    groups.emplace_back(parameters, GetParam().options(1));
    return GetParam().from_groups(groups);
  }
  std::string text(const std::string& message) const { return GetParam().optimizer + message; }
};

INSTANTIATE_TEST_SUITE_P(MultiTensor, EveryAlgorithm, testing::ValuesIn(test::our_kinds()),
                         [](const auto& test) { return test.param.name; });

Tensor matrix(double value = 0.5, torch::ScalarType dtype = torch::kFloat32) {
  return torch::full({2, 3}, value, torch::dtype(dtype).requires_grad(true));
}

TEST_P(EveryAlgorithm, MinimizesAQuadratic) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({4, 3}, torch::requires_grad());
  const Tensor target = torch::randn({4, 3});
  const auto loss = [&] { return (x - target).square().mean(); };
  const double before = loss().item<double>();
  auto optimizer = make({x});
  for (int step = 0; step < 300; ++step) {
    optimizer->zero_grad();
    loss().backward();
    optimizer->step();
  }
  EXPECT_LT(loss().item<double>(), 0.5 * before);
}

TEST_P(EveryAlgorithm, LeavesParametersWithoutGradientAlone) {
  Parameters parameters = GetParam().parameters();
  auto optimizer = GetParam().make(parameters);
  test::train(*optimizer, parameters, 1, 3);
  EXPECT_FALSE(torch::equal(parameters[0], GetParam().parameters()[0]));
  for (const size_t unused : {1, 3, 4}) {
    EXPECT_TRUE(torch::equal(parameters[unused], GetParam().parameters()[unused])) << unused;
    EXPECT_TRUE(optimizer_state(*optimizer).parameters[unused].empty()) << unused;
  }
}

TEST_P(EveryAlgorithm, UsesTheOptionsOfEachGroup) {
  Parameters parameters = GetParam().parameters();
  auto optimizer = GetParam().make(parameters);
  EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), 0.05);
  EXPECT_EQ(optimizer->param_groups()[1].options().get_lr(), 0.025);
  optimizer->param_groups()[0].options().set_lr(0);
  test::train(*optimizer, parameters, 3, 4);
  EXPECT_TRUE(torch::equal(parameters[0], GetParam().parameters()[0]));
  EXPECT_TRUE(torch::equal(parameters[1], GetParam().parameters()[1]));
  EXPECT_FALSE(torch::equal(parameters[2], GetParam().parameters()[2]));
  EXPECT_FALSE(torch::equal(parameters[3], GetParam().parameters()[3]));
}

TEST_P(EveryAlgorithm, UpdatesAGroupOfMixedDtypesAsGroupsOfOne) {
  const auto train = [](torch::optim::Optimizer& optimizer, const Parameters& parameters) {
    for (int step = 0; step < 5; ++step) {
      for (const Tensor& parameter : parameters) {
        torch::manual_seed(step);
        parameter.mutable_grad() =
            torch::randn({2, 3}, torch::kFloat64).to(parameter.scalar_type());
      }
      optimizer.step();
    }
  };
  const Parameters mixed = {matrix(0.5, torch::kFloat64), matrix(0.5, torch::kBFloat16)};
  train(*make(mixed), mixed);
  for (const Tensor& parameter : mixed) {
    const Tensor alone = matrix(0.5, parameter.scalar_type());
    train(*make({alone}), {alone});
    EXPECT_TRUE(torch::equal(alone, parameter)) << parameter.scalar_type();
  }
}

TEST_P(EveryAlgorithm, DoesNotDependOnTheMemoryLayout) {
  torch::manual_seed(1);
  const Tensor initial = torch::randn({4, 3});
  const Tensor gradient = torch::randn({4, 3});
  const auto transposed = [](const Tensor& t) { return t.t().contiguous().t(); };
  const auto updated = [&](const Tensor& x, const Tensor& g) {
    x.requires_grad_().mutable_grad() = g;
    auto optimizer = make({x});
    optimizer->step();
    optimizer->step();
    return x.detach();
  };
  const Tensor expected = updated(initial.clone(), gradient);
  const Tensor x = transposed(initial);
  EXPECT_TRUE(torch::allclose(updated(x, gradient), expected, 1e-5, 1e-6));
  EXPECT_EQ(x.stride(0), 1);
  EXPECT_TRUE(
      torch::allclose(updated(initial.clone(), transposed(gradient)), expected, 1e-5, 1e-6));
}

TEST_P(EveryAlgorithm, NeitherChangesNorKeepsTheGradients) {
  Parameters parameters = GetParam().parameters();
  auto optimizer = GetParam().make(parameters);
  test::set_gradients(parameters, 3);
  std::vector<Tensor> before;
  for (int i = 0; i < 4; ++i) {
    before.push_back(parameters[i].grad().clone());
  }
  optimizer->step();
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(torch::equal(parameters[i].grad(), before[i])) << i;
    EXPECT_EQ(parameters[i].grad().use_count(), 1U) << i;
  }
}

TEST_P(EveryAlgorithm, EvaluatesTheClosureWithGradientsThenUpdates) {
  const Tensor x = matrix();
  auto optimizer = make({x});
  const torch::NoGradGuard no_grad;
  const Tensor loss = optimizer->step([&] {
    optimizer->zero_grad();
    const Tensor value = x.square().sum();
    value.backward();
    return value;
  });
  EXPECT_EQ(loss.item<double>(), 1.5);
  EXPECT_LT(x.max().item<double>(), 0.5);
  EXPECT_FALSE(optimizer->step().defined());
}

TEST_P(EveryAlgorithm, UpdatesAGroupThatWasAddedLater) {
  const Tensor x = matrix();
  const Tensor later = matrix();
  auto optimizer = make({x});
  x.mutable_grad() = torch::ones({2, 3});
  optimizer->step();
  optimizer->add_param_group({{later}, GetParam().options(1)});
  later.mutable_grad() = torch::ones({2, 3});
  optimizer->step();
  EXPECT_FALSE(torch::equal(later, matrix()));
  EXPECT_EQ(optimizer->param_groups()[1].options().get_lr(), 0.05);
}

TEST_P(EveryAlgorithm, RefusesBadOptionsOfAnyGroup) {
  Groups groups;
  groups.emplace_back(Parameters{matrix()});
  groups.emplace_back(Parameters{matrix()}, GetParam().options(-2));
  EXPECT_EQ(thrown<UsageError>([&] { GetParam().from_groups(groups); }),
            text(": lr is -0.1, it must be at least 0."));
}

struct OtherOptions : public torch::optim::OptimizerCloneableOptions<OtherOptions> {};

TEST_P(EveryAlgorithm, RefusesTheOptionsOfAnotherOptimizer) {
  const std::string expected = text(": a parameter group has the options of another optimizer.\n") +
                               "  Give it trainer::optim::" + GetParam().optimizer +
                               "Options, or none for the defaults.";
  Groups groups;
  groups.emplace_back(Parameters{matrix()}, std::make_unique<OtherOptions>());
  EXPECT_EQ(thrown<UsageError>([&] { GetParam().from_groups(groups); }), expected);
  auto optimizer = make({matrix()});
  optimizer->param_groups()[0].set_options(std::make_unique<OtherOptions>());
  EXPECT_EQ(thrown<UsageError>([&] { optimizer->step(); }), expected);
  EXPECT_EQ(thrown<UsageError>([&] { optimizer_state(*optimizer); }), expected);
  EXPECT_EQ(thrown<UsageError>([&] { load_optimizer_state(*optimizer, {}); }), expected);
}

TEST_P(EveryAlgorithm, RefusesGradientsThatItCannotRead) {
  const Tensor x = matrix();
  auto optimizer = make({x});
  x.mutable_grad() = torch::ones({2, 3}).to_sparse();
  EXPECT_EQ(thrown<UsageError>([&] { optimizer->step(); }),
            text(": the gradient of a parameter of shape [2, 3] is sparse.\n"
                 "  Make the embedding without sparse(true), or use torch::optim::SGD."));
  x.mutable_grad() = torch::ones({2});
  EXPECT_EQ(thrown<UsageError>([&] { optimizer->step(); }),
            text(": the gradient of a parameter of shape [2, 3] has shape [2].\n"
                 "  Give it a gradient of its own shape."));
}

}  // namespace
}  // namespace trainer::optim
