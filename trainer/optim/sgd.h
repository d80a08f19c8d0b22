#pragma once
// Stochastic gradient descent with momentum on LibTorch's fused kernel.

#include <vector>

#include <torch/optim/sgd.h>

#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// lr, momentum, dampening, weight_decay, nesterov, as for torch::optim::SGD.
using SGDOptions = torch::optim::SGDOptions;

/// The momentum buffer starts as the first gradient, without dampening, as in PyTorch; Nesterov's
/// formula is PyTorch's too.
/// Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
/// learning"; kernel: at::_fused_sgd_.
class SGD : public MultiTensorOptimizer {
 public:
  /// Throws UsageError for a negative learning rate, momentum or weight decay, for nesterov without
  /// momentum or with dampening, and for a group with the options of another optimizer.
  explicit SGD(std::vector<torch::Tensor> parameters, SGDOptions options = SGDOptions(1e-3));
  explicit SGD(const std::vector<torch::optim::OptimizerParamGroup>& groups,
               SGDOptions defaults = SGDOptions(1e-3));

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
