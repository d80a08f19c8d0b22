#pragma once
// The training loop: epochs, batches, and the step in one function, train_batch(). docs/step.md
// tells its order.

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/checkpointed_blocks.h>
#include <trainer/fit_validation.h>
#include <trainer/job_deadline.h>
#include <trainer/metric_collector.h>
#include <trainer/optimization.h>
#include <trainer/rank_agreement.h>
#include <trainer/run.h>
#include <trainer/schedule.h>
#include <trainer/training_data.h>

namespace trainer {

class FitLoop {
 public:
  /// `should_stop` is read at the edge of every step.
  FitLoop(Run& run, const bool& should_stop);

  /// Calls configure_optimizers(); before load_state_dict() and run().
  void setup();
  /// Trains until max_epochs, max_steps, should_stop or a signal. Throws what user code throws,
  /// DataError when there is nothing to train on, NonFiniteError.
  void run();

  Optimization& optimization() { return *optimization_; }
  MetricCollector& metrics() { return metrics_; }
  /// kAllBatches where only the end of the data tells.
  int64_t num_training_batches() const { return data_.num_batches(); }
  int64_t num_val_batches() const { return validation_.num_batches(); }
  bool sanity_checking() const { return sanity_checking_; }
  /// Since training began, on all ranks the same.
  double training_s() const { return agreed().training_s; }
  /// The signal that asks to stop, as all ranks know it; 0 for none.
  int stop_signal() const { return agreed().signal; }
  /// Between two optimizer steps: the state is whole and can be saved.
  bool at_step_edge() const { return data_.window_is_empty() && !in_step_; }
  /// Validation runs at the end of this epoch or within it.
  bool validates_in_this_epoch() const { return validation_.runs_in_this_epoch(); }
  /// A limit of steps, epochs, samples or time is reached.
  bool is_done() const;

  /// Loop counters, schedule, unfinished epoch metrics. Defined at a step's edge only. Collective:
  /// yes.
  nlohmann::json state_dict();
  /// What is restored within an epoch is checked against the data when run() has opened it, which
  /// throws CheckpointError where the position means other samples now.
  void load_state_dict(const nlohmann::json& state);

 private:
  void seed_rank();
  void run_sanity_check();
  void prepare_data_of_epoch();
  void run_epoch();
  /// Training step, backward pass and, at the window's end, the update. Returns the loss.
  torch::Tensor optimize(const Batch& batch, const TrainingData::Place& place);
  /// The training step of a module that optimizes by hand.
  torch::Tensor optimize_by_hand(const Batch& batch, const TrainingData::Place& place);
  /// False when the module asked to skip the rest of the epoch.
  bool train_batch(Batch batch, const TrainingData::Place& place);
  void skip_window();
  void end_epoch();
  /// False where a signal came in between: a resumed run validates anew.
  bool validate();
  /// Makes the step values logged so far the newest of their names.
  void publish_step_values();
  double own_training_s() const;
  /// Optimizer steps of the whole fit; -1 where nobody knows.
  int64_t estimated_stepping_batches();
  /// How often the run will step the schedule that the configuration chose; -1 where nobody knows.
  int64_t estimated_schedule_steps();
  void step_epoch_schedulers();
  void step_metric_schedulers(Interval interval, int64_t intervals_done);

  void load_state_of_rank(const nlohmann::json& ranks);
  void log_step_metrics();
  bool stop_is_requested() const;
  int wanted_stop() const;
  RankAgreement::Wishes own_wishes() const;
  RankAgreement::Wishes agreed() const;
  void tell_ranks();
  void hear_ranks();
  void agree_now();

  Run& run_;
  Module& module_;
  Strategy& strategy_;
  CallbackList& callbacks_;
  Progress& progress_;
  const bool& should_stop_;

  MetricCollector metrics_;
  std::unique_ptr<Optimization> optimization_;
  std::optional<double> clip_norm_, clip_value_;
  bool checks_finite_loss_;
  TrainingLimits limits_;
  TrainingData data_;
  FitValidation validation_;
  RankAgreement agreement_;
  JobDeadline deadline_;
  CheckpointedBlocks checkpointed_;

  bool stepped_ = false;        // since the last edge
  bool in_step_ = false;        // train_batch() runs and its counters are not advanced yet
  bool epoch_started_ = false;  // on_train_epoch_start was called for current_epoch
  bool epoch_done_ = false;     // current_epoch is finished, the counters do not say so yet
  bool sanity_checking_ = false;
  bool is_resumed_ = false;
  std::optional<std::chrono::steady_clock::time_point> began_;  // run()
  double trained_before_s_ = 0;  // by the runs that this one resumes, where they took the time
  std::string restored_rng_;     // random state of a checkpoint, until training goes on
};

}  // namespace trainer
