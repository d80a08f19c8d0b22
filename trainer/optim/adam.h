#pragma once
// Adam on LibTorch's fused kernel. Its weight decay is a part of the gradient; AdamW's is not.

#include <vector>

#include <torch/optim/adam.h>

#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// lr, betas, eps, weight_decay, amsgrad, as for torch::optim::Adam.
using AdamOptions = torch::optim::AdamOptions;

/// Source: Kingma and Ba 2015, arXiv:1412.6980; amsgrad: Reddi et al. 2018, arXiv:1904.09237;
/// kernel: at::_fused_adam_.
class Adam : public MultiTensorOptimizer {
 public:
  /// Throws UsageError for a negative learning rate, eps or weight decay, for betas that are not at
  /// least 0 and below 1, and for a group with the options of another optimizer.
  explicit Adam(std::vector<torch::Tensor> parameters, AdamOptions options = AdamOptions());
  explicit Adam(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                AdamOptions defaults = AdamOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
