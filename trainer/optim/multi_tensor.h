#pragma once
// The base of the optimizers of this folder that update many tensors with one operation: what they
// do with groups, gradients, state and checkpoints is the same, only the update differs.

#include <memory>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/optimizer_state.h>

namespace trainer::optim {

namespace detail {
struct Algorithm;
struct TensorLists;
}  // namespace detail

/// For floating-point parameters of any device; those of a group may differ in device and dtype. A
/// parameter whose gradient is undefined is left alone, and the step is not counted for it, as in
/// PyTorch. The state has the parameter's dtype.
///
/// Of options that LibTorch does not have (LAMB, Lion, Muon, ScheduleFreeAdamW), a group takes
/// those that it is given to the constructor with; add_param_group() gives it the optimizer's
/// defaults, and param_groups().back().set_options() others.
class MultiTensorOptimizer : public torch::optim::Optimizer, public StatefulOptimizer {
 public:
  ~MultiTensorOptimizer() override;

  /// Evaluates `closure`, if there is one, with gradients enabled, then updates the parameters.
  /// Returns the closure's loss, or an undefined tensor. Throws UsageError for a sparse gradient, a
  /// group with the options of another optimizer, a parameter that was converted after its first
  /// step and, where the kernel reads memory in order, one with gaps in its memory.
  /// Syncs: no.
  torch::Tensor step(LossClosure closure = nullptr) override;

  /// Makes the next step change nothing, counters included, where the value of `found_inf`, a
  /// float32 scalar on the parameters' device, is 1 by then. The step syncs unless its kernel is a
  /// fused one (Adam, AdamW, Adagrad, SGD without dampening), which reads the flag on the device.
  void skip_next_step_if(torch::Tensor found_inf) { found_inf_ = std::move(found_inf); }

  OptimizerState optimizer_state() const override;
  void load_optimizer_state(const OptimizerState& state) override;

 protected:
  /// Throws UsageError for options that the algorithm does not take. `algorithm` must live on.
  MultiTensorOptimizer(const detail::Algorithm& algorithm,
                       const std::vector<torch::optim::OptimizerParamGroup>& groups,
                       std::unique_ptr<torch::optim::OptimizerOptions> defaults);

 private:
  /// Called once in a step for each group, before its update()s.
  virtual void begin_group(torch::optim::OptimizerOptions& options);
  /// Updates parameters of one group, device and dtype.
  virtual void update(detail::TensorLists& lists,
                      const torch::optim::OptimizerOptions& options) = 0;

  void check_groups() const;
  /// Whether the kernel skips a step by itself.
  bool skips_on_device() const;

  const detail::Algorithm* algorithm_;
  torch::Tensor found_inf_;  // undefined: the next step is not skipped
  /// For each group one for each device and dtype among its parameters.
  std::vector<std::vector<detail::TensorLists>> lists_;
};

}  // namespace trainer::optim
