#pragma once
// AdamW without a learning rate schedule: the average of the iterates does what a decaying rate
// would do, at any time, so that no number of steps has to be known in advance.

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/mode_switching.h>
#include <trainer/optim/multi_tensor.h>

namespace trainer::optim {

/// A group takes all of the options it is given, none of the defaults.
struct ScheduleFreeAdamWOptions
    : public torch::optim::OptimizerCloneableOptions<ScheduleFreeAdamWOptions> {
  ScheduleFreeAdamWOptions(double lr = 2.5e-3) : lr_(lr) {}  // NOLINT: implicit as for LibTorch's
  using Betas = std::tuple<double, double>;
  TORCH_ARG(double, lr);
  /// The first one interpolates between the average and the newest iterate: it must not be 0.
  TORCH_ARG(Betas, betas) = {0.9, 0.999};
  TORCH_ARG(double, eps) = 1e-8;
  TORCH_ARG(double, weight_decay) = 0;
  TORCH_ARG(int64_t, warmup_steps) = 0;  ///< The learning rate grows linearly in these steps.
  /// Iterate k enters the average with weight (k + 1)^r * (largest lr)^weight_lr_power.
  TORCH_ARG(double, r) = 0;
  TORCH_ARG(double, weight_lr_power) = 2;
  // What the group has come to; not for you to set.
  TORCH_ARG(int64_t, k) = 0;           ///< Steps taken.
  TORCH_ARG(double, lr_max) = 0;       ///< The largest learning rate so far.
  TORCH_ARG(double, weight_sum) = 0;   ///< Of the weights of all iterates.
  TORCH_ARG(bool, train_mode) = true;  ///< Which version the parameters hold.

 public:
  double get_lr() const override { return lr_; }
  void set_lr(double value) override { lr_ = value; }
};

/// The parameters hold the point where gradients are taken while training, and the average, which
/// is the result, after eval(), which keeps the former aside until train(). Use no learning rate
/// schedule with it, and a rate 1 to 10 times AdamW's. Statistics of batch norm layers belong to
/// the training point: let some batches pass in training mode after eval(). Source: Defazio et al.
/// 2024, arXiv:2405.15682, in the form of the authors' implementation (bias correction in the
/// second moment, the weights of the average from the largest learning rate).
class ScheduleFreeAdamW : public MultiTensorOptimizer, public ModeSwitching {
 public:
  /// Throws UsageError for a negative option, betas outside of 0 to 1 (the first one must be above
  /// 0), and a group with the options of another optimizer.
  explicit ScheduleFreeAdamW(std::vector<torch::Tensor> parameters,
                             ScheduleFreeAdamWOptions options = ScheduleFreeAdamWOptions());
  explicit ScheduleFreeAdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                             ScheduleFreeAdamWOptions defaults = ScheduleFreeAdamWOptions());

  void train() override;
  void eval() override;

 private:
  void begin_group(torch::optim::OptimizerOptions& options) override;
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
  void switch_to(bool train_mode);

  double lr_ = 0;              ///< Of the present step and group, after warm-up.
  double average_weight_ = 0;  ///< With which the newest iterate enters the average.
};

}  // namespace trainer::optim
