#pragma once
// What a module with automatic_optimization() == false works with: its optimizers, each stepped
// when training_step() says so.
//
//   torch::Tensor training_step(const Batch& batch, int64_t) override {
//     auto generator = optimizer(0);
//     auto toggled = toggle(generator);
//     auto loss = generator_loss(batch);
//     generator.zero_grad();
//     manual_backward(loss);
//     generator.step();
//     ...
//   }

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <trainer/optim/lr_scheduler.h>

namespace trainer {

/// The loop's side of it.
class ManualOptimization {
 public:
  using Closure = std::function<torch::Tensor()>;

  virtual ~ManualOptimization() = default;
  virtual size_t num_optimizers() const = 0;
  virtual torch::optim::Optimizer& optimizer(size_t index) = 0;
  virtual std::vector<LRScheduler*> lr_schedulers() = 0;
  virtual void backward(const torch::Tensor& loss) = 0;
  virtual void zero_grad(torch::optim::Optimizer& optimizer) = 0;
  virtual torch::Tensor clip_by_norm(torch::optim::Optimizer& optimizer, double max_norm) = 0;
  virtual void clip_by_value(torch::optim::Optimizer& optimizer, double max_value) = 0;
  virtual torch::Tensor step(torch::optim::Optimizer& optimizer, const Closure& closure) = 0;
};

/// One optimizer of the fit under way. Cheap to copy; valid while that fit runs.
class OptimizerHandle {
 public:
  OptimizerHandle(ManualOptimization& loop, torch::optim::Optimizer& optimizer)
      : loop_(&loop), optimizer_(&optimizer) {}

  /// Zeroes its gradients.
  void zero_grad() { loop_->zero_grad(*optimizer_); }
  /// Scales its gradients, between backward pass and step, so that their global L2 norm is at most
  /// `max_norm`; returns the norm before, a float32 scalar. Collective: yes. Syncs: no.
  torch::Tensor clip_by_norm(double max_norm) { return loop_->clip_by_norm(*optimizer_, max_norm); }
  /// Clamps every element of its gradients to [-max_value, max_value]. Syncs: no.
  void clip_by_value(double max_value) { loop_->clip_by_value(*optimizer_, max_value); }
  /// Updates its parameters and counts one optimizer step. `closure` computes loss and gradients,
  /// for optimizers that evaluate more than once (LBFGS); without one the gradients are there.
  /// Collective: yes.
  torch::Tensor step(const ManualOptimization::Closure& closure = nullptr) {
    return loop_->step(*optimizer_, closure);
  }
  torch::optim::Optimizer& operator*() const { return *optimizer_; }
  torch::optim::Optimizer* operator->() const { return optimizer_; }

 private:
  ManualOptimization* loop_;
  torch::optim::Optimizer* optimizer_;
};

/// While it lives, of all parameters that have an optimizer only those of one require gradients:
/// a backward pass computes nothing for the others.
class ToggleScope {
 public:
  ToggleScope(ManualOptimization& loop, const OptimizerHandle& toggled);
  ToggleScope(const ToggleScope&) = delete;
  ToggleScope& operator=(const ToggleScope&) = delete;
  ~ToggleScope();

 private:
  std::vector<torch::Tensor> switched_off_;
};

}  // namespace trainer
