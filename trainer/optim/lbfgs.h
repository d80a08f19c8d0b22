#pragma once
// LBFGS for small deterministic problems: it evaluates the closure many times in one step.

#include <vector>

#include <torch/optim/lbfgs.h>

namespace trainer::optim {

/// lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size and line_search_fn
/// ("strong_wolfe" or none), as for torch::optim::LBFGS.
using LBFGSOptions = torch::optim::LBFGSOptions;

/// torch::optim::LBFGS with its mistakes told at once. All parameters are one group on one device;
/// an undefined gradient counts as zeros. Give it full batches and no gradient accumulation: it
/// compares the losses of its evaluations.
/// Source: Nocedal and Wright 2006, "Numerical Optimization", chapter 7; line search: section 3.5.
class LBFGS : public torch::optim::LBFGS {
 public:
  /// Throws UsageError for no parameter, more than one group, a negative learning rate or
  /// tolerance, max_iter, max_eval or history_size below 1, and another line_search_fn.
  explicit LBFGS(std::vector<torch::Tensor> parameters, LBFGSOptions options = LBFGSOptions());
  explicit LBFGS(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 LBFGSOptions defaults = LBFGSOptions());

  /// Returns the loss of the first evaluation. Throws UsageError without a closure.
  /// Syncs: yes, several times for each evaluation.
  torch::Tensor step(LossClosure closure) override;
};

}  // namespace trainer::optim
