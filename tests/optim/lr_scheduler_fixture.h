#pragma once
// Optimizers whose learning rates the tests of schedulers look at.

#include <cstdint>
#include <memory>
#include <vector>

#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <trainer/optim/lr_scheduler.h>

namespace trainer::test {

/// One parameter group for each learning rate.
template <class Optimizer, class Options>
Optimizer make_optimizer(const std::vector<double>& lrs) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const double lr : lrs) {
    groups.emplace_back(std::vector{torch::zeros({2}, torch::requires_grad())},
                        std::make_unique<Options>(lr));
  }
  return Optimizer(groups, Options(1.0));
}

inline torch::optim::SGD make_sgd(const std::vector<double>& lrs) {
  return make_optimizer<torch::optim::SGD, torch::optim::SGDOptions>(lrs);
}

inline std::vector<double> lrs(const torch::optim::Optimizer& optimizer) {
  std::vector<double> result;
  for (const auto& group : optimizer.param_groups()) {
    result.push_back(group.options().get_lr());
  }
  return result;
}

/// The learning rates of a run of `num_steps` optimizer steps.
inline std::vector<double> trace(LRScheduler& scheduler, const torch::optim::Optimizer& optimizer,
                                 int64_t num_steps) {
  std::vector<double> result;
  for (int64_t i = 0; i < num_steps; ++i) {
    result.push_back(lrs(optimizer)[0]);
    scheduler.step();
  }
  return result;
}

inline void expect_near(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], 1e-14) << "at step " << i;
  }
}

}  // namespace trainer::test
