#pragma once
// Lion: the sign of an interpolated momentum. Half of Adam's state; its learning rate is 3 to 10
// times smaller than AdamW's, its weight decay as much larger.

#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// A group takes all of the options it is given, none of the defaults.
struct LionOptions : public torch::optim::OptimizerCloneableOptions<LionOptions> {
  LionOptions(double lr = 1e-4) : lr_(lr) {}  // NOLINT: implicit as for LibTorch's options
  using Betas = std::tuple<double, double>;
  TORCH_ARG(double, lr);
  TORCH_ARG(Betas, betas) = {0.9, 0.99};
  TORCH_ARG(double, weight_decay) = 0;

 public:
  double get_lr() const override { return lr_; }
  void set_lr(double value) override { lr_ = value; }
};

/// Weight decay is decoupled, as in AdamW.
/// Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
class Lion : public MultiTensorOptimizer {
 public:
  /// Throws UsageError for a negative learning rate or weight decay, for betas that are not at
  /// least 0 and below 1, and for a group with the options of another optimizer.
  explicit Lion(std::vector<torch::Tensor> parameters, LionOptions options = LionOptions());
  explicit Lion(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                LionOptions defaults = LionOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
