#pragma once
// Learning-rate schedules. A schedule is a factor of the initial learning rate as a pure function
// of the number of times it was stepped, so that its state is one number and a resumed run
// continues exactly.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/optim/optimizer.h>

namespace trainer {

/// Sets the learning rate of every parameter group to its initial one times factor(count). Derive
/// from it and implement factor() for a schedule of your own; the first optimizer step runs with
/// factor(0).
class LRScheduler {
 public:
  /// Takes the groups' present learning rates as the initial ones. The optimizer must outlive the
  /// scheduler.
  explicit LRScheduler(torch::optim::Optimizer& optimizer);
  virtual ~LRScheduler() = default;

  /// Counts one more step and sets the learning rates. Throws UsageError when the optimizer got or
  /// lost a parameter group since the construction.
  void step();
  /// Steps so far.
  int64_t count() const { return count_; }

  /// {"count": 3, "initial_lrs": [0.1, 0.01]}.
  nlohmann::json state_dict() const;
  /// Restores state_dict() and sets the learning rates for its count; restore the optimizer's own
  /// state after it when something else changes learning rates too. Throws CheckpointError, with
  /// nothing changed, when the state is malformed or has another number of parameter groups.
  void load_state_dict(const nlohmann::json& state);

 protected:
  virtual double factor(int64_t count) const = 0;
  /// Sets the learning rates for the present count; constructors of derived classes call it last.
  void apply();

 private:
  torch::optim::Optimizer& optimizer_;
  std::vector<double> initial_lrs_;
  int64_t count_ = 0;
};

/// Any function of the count.
class LambdaLR : public LRScheduler {
 public:
  /// Throws UsageError for an empty function.
  LambdaLR(torch::optim::Optimizer& optimizer, std::function<double(int64_t)> factor);

 protected:
  double factor(int64_t count) const override { return factor_(count); }

 private:
  std::function<double(int64_t)> factor_;
};

/// gamma^(count / step_size), with an integer division, as torch.optim.lr_scheduler.StepLR.
class StepLR : public LRScheduler {
 public:
  /// Throws UsageError unless step_size >= 1 and gamma is a number >= 0.
  StepLR(torch::optim::Optimizer& optimizer, int64_t step_size, double gamma = 0.1);

 protected:
  double factor(int64_t count) const override;

 private:
  int64_t step_size_;
  double gamma_;
};

/// Linear rise over `warmup_steps`, then half a cosine down to `min_factor` at `total_steps`,
/// constant after it: (count + 1) / (warmup_steps + 1) in the warm-up, so that no step runs with 0,
/// and 1 at its end. The same as torch.optim.lr_scheduler.LinearLR(start_factor=1/(warmup_steps+1),
/// total_iters=warmup_steps) followed by CosineAnnealingLR(T_max=total_steps-warmup_steps,
/// eta_min=min_factor*lr). Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
class WarmupCosineLR : public LRScheduler {
 public:
  /// Throws UsageError unless 0 <= warmup_steps < total_steps and 0 <= min_factor <= 1.
  WarmupCosineLR(torch::optim::Optimizer& optimizer, int64_t warmup_steps, int64_t total_steps,
                 double min_factor = 0.0);

 protected:
  double factor(int64_t count) const override;

 private:
  int64_t warmup_steps_;
  int64_t total_steps_;
  double min_factor_;
};

}  // namespace trainer
