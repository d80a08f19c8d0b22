#pragma once
// What checkpoints keep of an optimizer, in one form for every optimizer: tensors for each parameter, and the
// numbers of each parameter group.

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/optimizer.h>

namespace trainer {

struct OptimizerState {
  /// One entry for each parameter, in the order of the groups: "exp_avg" and the like. Empty before the first step.
  std::vector<std::map<std::string, torch::Tensor>> parameters;
  /// One object for each group: at least {"lr": 0.001}.
  nlohmann::json groups = nlohmann::json::array();
};

/// Implement it in an optimizer of your own to have it saved and resumed.
class StatefulOptimizer {
 public:
  virtual ~StatefulOptimizer() = default;
  /// Shares the tensors, does not copy them.
  virtual OptimizerState optimizer_state() const = 0;
  /// Copies into the optimizer's own tensors.
  virtual void load_optimizer_state(const OptimizerState& state) = 0;
};

/// Whether `optimizer` can be saved: a StatefulOptimizer, or one of LibTorch's Adam, AdamW, SGD, RMSprop, Adagrad.
bool has_optimizer_state(const torch::optim::Optimizer& optimizer);

/// Throws UsageError, naming the class, where has_optimizer_state() is false.
OptimizerState optimizer_state(const torch::optim::Optimizer& optimizer);

/// Throws CheckpointError when the state has other parameters, shapes or groups than the optimizer.
void load_optimizer_state(torch::optim::Optimizer& optimizer, const OptimizerState& state);

}  // namespace trainer
