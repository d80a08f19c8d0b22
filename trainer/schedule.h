#pragma once
// When training ends and when validation runs: the Trainer's settings as questions about the run's
// progress.

#include <optional>

#include <nlohmann/json.hpp>

#include <trainer/progress.h>
#include <trainer/trainer_config.h>

namespace trainer {

/// max_epochs, max_steps, max_time, max_duration, of which the first to be reached ends training,
/// and the minima that hold back an early stop.
class TrainingLimits {
 public:
  explicit TrainingLimits(const TrainerConfig& config);

  /// -1 where epochs are not limited.
  int64_t max_epochs() const { return max_epochs_; }
  /// The optimizer steps of a run whose epochs have `num_batches` batches; -1 where nobody knows.
  int64_t max_steps(int64_t num_batches, const Accumulation& accumulate_grad_batches) const;

  /// A maximum is reached. `training_s`: seconds of training so far, resumed runs included.
  bool is_reached(const Progress& progress, double training_s) const;
  /// min_epochs and min_steps are met: should_stop may take effect.
  bool may_stop(const Progress& progress) const;
  /// A limit in time is set, so that the clock has to be read.
  bool has_time() const { return max_seconds_.has_value(); }

 private:
  int64_t max_epochs_, max_steps_, min_epochs_, min_steps_;
  std::optional<double> max_samples_, max_batches_, max_seconds_;
};

/// val_check_interval and check_val_every_n_epoch. A number of batches counts anew in each epoch,
/// a duration (500step, 200batch, 1e6sample, 30min) since training began.
class ValidationSchedule {
 public:
  /// `num_batches`: of a training epoch, kAllBatches where only its end tells. Throws ConfigError
  /// for an interval that no epoch reaches.
  ValidationSchedule(const TrainerConfig& config, int64_t num_batches);

  /// Validation may run in this epoch.
  bool runs_in_epoch(int64_t epoch) const;
  /// At the edge of a step: validation has to run now. `training_s`: seconds of training so far;
  /// `epoch_is_over`: no batch of this epoch is left.
  bool is_due(const Progress& progress, double training_s, bool epoch_is_over) const;
  void ran(const Progress& progress, double training_s);
  /// A new epoch begins.
  void begin_epoch();
  bool has_time() const { return seconds_.has_value(); }

  nlohmann::json state_dict() const;
  void load_state_dict(const nlohmann::json& state);

 private:
  enum class Counted { kBatchesOfEpoch, kBatches, kSteps, kSamples };
  int64_t position(const Progress& progress) const;

  std::optional<int64_t> every_n_epochs_;
  Counted counted_ = Counted::kBatchesOfEpoch;
  int64_t interval_ = 0;  // between two validations; kAllBatches: at the end of the epoch
  std::optional<double> seconds_;
  int64_t ran_at_ = -1;  // position after which it ran last
  double ran_at_s_ = 0;
};

}  // namespace trainer
