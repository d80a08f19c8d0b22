#pragma once
// The optimizers of a fit with their schedules: made, stepped, saved and restored in one place, for
// automatic and manual optimization alike.

#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/manual_optimization.h>
#include <trainer/optim/optimizer_config.h>
#include <trainer/run.h>

namespace trainer {

class Optimization : public ManualOptimization {
 public:
  /// Calls configure_optimizers(). Throws UsageError for several optimizers with automatic
  /// optimization, for an optimizer that cannot be saved where checkpoints are on, for settings
  /// that only automatic optimization has.
  explicit Optimization(Run& run);

  size_t num_optimizers() const override { return entries_.size(); }
  torch::optim::Optimizer& optimizer(size_t index) override;
  std::vector<LRScheduler*> lr_schedulers() override;

  // Manual optimization: what training_step() calls.
  void backward(const torch::Tensor& loss) override;
  void zero_grad(torch::optim::Optimizer& optimizer) override;
  torch::Tensor step(torch::optim::Optimizer& optimizer, const Closure& closure) override;

  /// Steps the schedules of this interval of which `intervals_done` is a multiple of the frequency.
  /// With manual optimization the module steps them itself.
  void step_lr_schedulers(Interval interval, int64_t intervals_done);

  /// The schedules' states.
  nlohmann::json state_dict() const;
  void load_state_dict(const nlohmann::json& state);

 private:
  void check_settings() const;

  Run& run_;
  std::vector<OptimizerConfig::Entry> entries_;
};

}  // namespace trainer
