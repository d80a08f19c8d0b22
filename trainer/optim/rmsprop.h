#pragma once
// RMSprop, with and without momentum and centering, in operations on all parameters of a group.

#include <vector>

#include <torch/optim/rmsprop.h>

#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// lr, alpha, eps, weight_decay, momentum, centered, as for torch::optim::RMSprop.
using RMSpropOptions = torch::optim::RMSpropOptions;

/// eps is added to the root, as in PyTorch (TensorFlow adds it below the root).
/// Source: Hinton 2012, Coursera lecture 6e; centered: Graves 2013, arXiv:1308.0850.
class RMSprop : public MultiTensorOptimizer {
 public:
  /// Throws UsageError for a negative option, and for a group with the options of another
  /// optimizer.
  explicit RMSprop(std::vector<torch::Tensor> parameters,
                   RMSpropOptions options = RMSpropOptions());
  explicit RMSprop(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                   RMSpropOptions defaults = RMSpropOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
