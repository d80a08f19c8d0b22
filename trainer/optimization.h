#pragma once
// The optimizers of a fit with their schedules: made, stepped, saved and restored in one place, for
// automatic and manual optimization alike.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/manual_optimization.h>
#include <trainer/optim/grad_scaler.h>
#include <trainer/optim/mode_switching.h>
#include <trainer/optim/optimizer_config.h>
#include <trainer/run.h>

namespace trainer {

class Optimization : public ManualOptimization {
 public:
  using FindMetric = std::function<std::optional<double>(const std::string& name)>;

  /// Calls configure_optimizers(), or makes what the configuration chooses; `total_steps` is how
  /// often the run will step its schedule, -1 where nobody knows. Throws UsageError for several
  /// optimizers with automatic optimization and no frequency, for an optimizer that cannot be
  /// saved, for LBFGS in 16-mixed, with accumulation or on several ranks, for settings that only
  /// automatic optimization has.
  Optimization(Run& run, int64_t total_steps);

  /// Which optimizer takes the step after `global_step` others, with automatic optimization.
  size_t turn(int64_t global_step) const;

  size_t num_optimizers() const override { return entries_.size(); }
  torch::optim::Optimizer& optimizer(size_t index) override;
  std::vector<LRScheduler*> lr_schedulers() override;

  /// With manual optimization: of this rank's batch in the mean over the ranks.
  void set_loss_weight(double weight) { loss_weight_ = weight; }

  // Manual optimization: what training_step() calls.
  void backward(const torch::Tensor& loss) override;
  void zero_grad(torch::optim::Optimizer& optimizer) override;
  torch::Tensor clip_by_norm(torch::optim::Optimizer& optimizer, double max_norm) override;
  void clip_by_value(torch::optim::Optimizer& optimizer, double max_value) override;
  torch::Tensor step(torch::optim::Optimizer& optimizer, const Closure& closure) override;

  // 16-mixed; nothing in other precisions. Both modes of optimization call all three.

  /// Divides the gradients by the scale of the loss, once until the step.
  void unscale(torch::optim::Optimizer& optimizer);
  /// Lets the next step change nothing where a gradient is not finite.
  void skip_if_not_finite(torch::optim::Optimizer& optimizer);
  /// After the steps of a batch.
  void update_scale();
  /// Warns where the scale fell so low that hardly a step succeeds. Syncs: yes.
  void check_scale() const;

  /// Steps the schedules of this interval of which `intervals_done` is a multiple of the frequency;
  /// where optimizers take turns, the one that stepped last counts its own steps. With manual
  /// optimization the module steps them itself, and nothing happens here.
  void step_lr_schedulers(Interval interval, int64_t intervals_done);
  /// The same for those that follow a metric; `find` gives the newest value of one. Throws
  /// UsageError where it was not logged and the schedule is strict.
  void step_metric_schedulers(Interval interval, int64_t intervals_done, const FindMetric& find);

  /// Which version of the parameters optimizers that keep two (schedule-free ones) show.
  /// Collective: yes, where parameters are sharded.
  void show_training_parameters();
  void show_evaluation_parameters();
  bool shows_evaluation_parameters() const { return shows_evaluation_; }

  /// The states of schedules and gradient scaler.
  nlohmann::json state_dict() const;
  void load_state_dict(const nlohmann::json& state);

 private:
  void finish_gradient_sync();
  void switch_parameters(void (ModeSwitching::*to)());
  void check_settings() const;
  void check_turns() const;
  int64_t steps_of(size_t index, int64_t global_step) const;
  template <class F>
  void for_each_due(Interval interval, int64_t intervals_done, const F& step);

  Run& run_;
  std::vector<OptimizerConfig::Entry> entries_;
  int64_t steps_of_a_round_ = 0;  // in which each optimizer has its turn
  std::optional<GradScaler> scaler_;
  bool shows_evaluation_ = false;
  double loss_weight_ = 1;
  bool backward_ran_ = false;  // since the gradients were synchronized
};

/// Shows the parameters for evaluation while `body` runs, and then, also where it throws, what was
/// shown before. Sharded ones stay as they are after an error that is not OnEveryRank: the other
/// ranks may not come. Collective: yes, begin and end, where parameters are sharded.
void with_evaluation_parameters(Optimization& optimization, Strategy& strategy,
                                const std::function<void()>& body);

}  // namespace trainer
