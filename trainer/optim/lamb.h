#pragma once
// LAMB: Adam whose update of each parameter is as long as the parameter times the learning rate,
// for training with large batches.

#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/multi_tensor.h>
#include <trainer/optim/whole_tensors.h>

namespace trainer::optim {

/// A group takes all of the options it is given, none of the defaults.
struct LAMBOptions : public torch::optim::OptimizerCloneableOptions<LAMBOptions> {
  LAMBOptions(double lr = 1e-3) : lr_(lr) {}  // NOLINT: implicit as for LibTorch's options
  using Betas = std::tuple<double, double>;
  TORCH_ARG(double, lr);
  TORCH_ARG(Betas, betas) = {0.9, 0.999};
  TORCH_ARG(double, eps) = 1e-6;
  TORCH_ARG(double, weight_decay) = 0.01;

 public:
  double get_lr() const override { return lr_; }
  void set_lr(double value) override { lr_ = value; }
};

/// Algorithm 2 of the paper with phi(z) = z: moments with bias correction, and the trust ratio
/// |parameter| / |update| for every parameter, 1 where one of the two norms is 0.
/// Source: You et al. 2020, arXiv:1904.00962.
class LAMB : public MultiTensorOptimizer, public UsesWholeTensors {
 public:
  /// Throws UsageError for a negative learning rate, eps or weight decay, for betas that are not at
  /// least 0 and below 1, and for a group with the options of another optimizer.
  explicit LAMB(std::vector<torch::Tensor> parameters, LAMBOptions options = LAMBOptions());
  explicit LAMB(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                LAMBOptions defaults = LAMBOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
