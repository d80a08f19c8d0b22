#pragma once
// The interface of learning-rate schedulers; lr_schedules.h has the schedules,
// reduce_lr_on_plateau.h the one that follows a metric, lr_scheduler_factory.h the choice in YAML
// and compositions.
//
// A schedule is a pure function of the number of times it was stepped, so that its state is one
// number and a resumed run continues exactly.

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/optim/optimizer.h>

namespace trainer {

/// What a scheduler may ask about the run it is made for.
struct LRSchedulerContext {
  /// How often the run will step the scheduler: optimizer steps or epochs, by the scheduler's
  /// interval, divided by its frequency; -1 where nobody knows.
  int64_t total_steps = -1;
};

/// Sets the learning rate of every parameter group to lr(its initial one, count). Derive from it
/// and implement lr() for a schedule of your own; the constructor of the derived class calls
/// apply() last, so that the first optimizer step runs with count 0.
class LRScheduler {
 public:
  /// Takes the groups' present learning rates as the initial ones. The optimizer must outlive the
  /// scheduler.
  explicit LRScheduler(torch::optim::Optimizer& optimizer);
  LRScheduler(const LRScheduler&) = delete;
  LRScheduler& operator=(const LRScheduler&) = delete;
  virtual ~LRScheduler() = default;

  /// Whether step() has to be given the value of a monitored metric.
  virtual bool needs_metric() const { return false; }

  /// Counts one more step and sets the learning rates. Throws UsageError when a metric is needed,
  /// when the optimizer got or lost a parameter group since the construction, and for a learning
  /// rate that is NaN or infinite.
  void step();
  /// The same with the monitored metric, which only a scheduler that needs it looks at.
  void step(double metric);
  /// Steps so far.
  int64_t count() const { return count_; }

  /// {"count": 3, "initial_lrs": [0.1, 0.01]}, and what observe() keeps.
  virtual nlohmann::json state_dict() const;
  /// Restores state_dict() and sets the learning rates for its count; restore the optimizer's own
  /// state after it when something else changes learning rates too. Throws CheckpointError, with
  /// nothing changed, when the state is malformed or has another number of parameter groups.
  virtual void load_state_dict(const nlohmann::json& state);

  /// The learning rate after `count` steps of a group that began with `initial_lr`.
  virtual double lr(double initial_lr, int64_t count) const = 0;
  /// The momentum, or first beta, of every group after `count` steps; nothing where the schedule
  /// leaves it alone.
  virtual std::optional<double> momentum(int64_t) const { return std::nullopt; }

 protected:
  /// Sees the metric of a step before the learning rates are set.
  virtual void observe(double) {}
  /// Sets learning rates and momentum for the present count; constructors of derived classes call
  /// it last.
  void apply();
  torch::optim::Optimizer& optimizer() const { return optimizer_; }

 private:
  torch::optim::Optimizer& optimizer_;
  std::vector<double> initial_lrs_;
  int64_t count_ = 0;
};

/// Any function from the count to a factor of the initial learning rate.
class LambdaLR : public LRScheduler {
 public:
  /// Throws UsageError for an empty function.
  LambdaLR(torch::optim::Optimizer& optimizer, std::function<double(int64_t)> factor);
  double lr(double initial_lr, int64_t count) const override { return initial_lr * factor_(count); }

 private:
  std::function<double(int64_t)> factor_;
};

}  // namespace trainer
