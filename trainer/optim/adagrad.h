#pragma once
// Adagrad on LibTorch's fused kernel.

#include <vector>

#include <torch/optim/adagrad.h>

#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// lr, lr_decay, weight_decay, initial_accumulator_value, eps, as for torch::optim::Adagrad.
using AdagradOptions = torch::optim::AdagradOptions;

/// Each group starts with its own initial_accumulator_value (PyTorch's with that of the defaults).
/// Source: Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic
/// optimization"; kernel: at::_fused_adagrad_.
class Adagrad : public MultiTensorOptimizer {
 public:
  /// Throws UsageError for a negative option, and for a group with the options of another
  /// optimizer.
  explicit Adagrad(std::vector<torch::Tensor> parameters,
                   AdagradOptions options = AdagradOptions());
  explicit Adagrad(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                   AdagradOptions defaults = AdagradOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
