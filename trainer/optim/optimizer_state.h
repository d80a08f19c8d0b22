#pragma once
// What checkpoints keep of an optimizer, in one form for every optimizer: tensors for each
// parameter, and the numbers of each parameter group. The trainer saves and restores every
// optimizer with it; implement StatefulOptimizer to have an optimizer of your own resumed.

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/optimizer.h>

namespace trainer {

struct OptimizerState {
  /// One entry for each parameter, in the order of the groups: "exp_avg" and the like, in the shape
  /// and dtype of the parameter, and "step", a scalar. The entry of a parameter that was never
  /// updated is empty. LBFGS keeps everything in the entry of its first parameter, over the
  /// elements of all parameters: "d" [n], "old_dirs" [history, n] and the like.
  std::vector<std::map<std::string, torch::Tensor>> parameters;
  /// One object for each group, its options: at least {"lr": 0.001}.
  nlohmann::json groups = nlohmann::json::array();
};

/// Implement it in an optimizer of your own to have it saved and resumed.
class StatefulOptimizer {
 public:
  virtual ~StatefulOptimizer() = default;
  /// Shares the tensors, does not copy them: the next step changes them.
  virtual OptimizerState optimizer_state() const = 0;
  /// Copies into the optimizer's own tensors. Throws CheckpointError when the state does not fit.
  virtual void load_optimizer_state(const OptimizerState& state) = 0;
  /// Whether it keeps one number under this name, whatever the parameter's shape. A sharded run
  /// asks for parameters without dimensions, whose other state is as small.
  virtual bool is_scalar(const std::string& name) const { return name == "step"; }
};

/// Whether `optimizer` can be saved: a StatefulOptimizer, or one of LibTorch's Adam, AdamW, SGD,
/// RMSprop, Adagrad, LBFGS; not a class derived from one of them, which may have a state of its
/// own.
bool has_optimizer_state(const torch::optim::Optimizer& optimizer);

/// Throws UsageError, naming the class, where has_optimizer_state() is false.
OptimizerState optimizer_state(const torch::optim::Optimizer& optimizer);

/// What StatefulOptimizer::is_scalar() says; LibTorch's optimizers keep "step" as one number.
bool is_scalar_state(const torch::optim::Optimizer& optimizer, const std::string& name);

/// Restores options and tensors, the latter converted to the device and dtype the optimizer would
/// give them. A parameter whose entry is empty starts afresh. Throws UsageError where
/// has_optimizer_state() is false, and CheckpointError, with nothing changed, when the state has
/// other parameters, shapes or groups than the optimizer.
void load_optimizer_state(torch::optim::Optimizer& optimizer, const OptimizerState& state);

}  // namespace trainer
