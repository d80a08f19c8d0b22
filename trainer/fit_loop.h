#pragma once
// The training loop: epochs, batches, and the step in one function, train_batch(). docs/step.md
// tells its order.

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/eval_loop.h>
#include <trainer/metrics.h>
#include <trainer/optimization.h>
#include <trainer/run.h>
#include <trainer/schedule.h>

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
  int64_t num_training_batches() const { return num_batches_; }
  int64_t num_val_batches() const { return num_val_batches_; }
  bool sanity_checking() const { return sanity_checking_; }
  /// Between two optimizer steps: the state is whole and can be saved.
  bool at_step_edge() const { return window_.empty() && !in_step_; }
  /// Validation runs at the end of this epoch or within it.
  bool validates_in_this_epoch() const;
  /// A limit of steps, epochs, samples or time is reached.
  bool is_done() const;

  /// Loop counters, schedule, unfinished epoch metrics. Defined at a step's edge only.
  nlohmann::json state_dict();
  /// What is restored within an epoch is checked against the data when run() has opened it, which
  /// throws CheckpointError where the position means other samples now.
  void load_state_dict(const nlohmann::json& state);

 private:
  /// A batch's place among those that make one optimizer step together.
  struct Window {
    bool is_first;
    bool is_last;
    double weight;  // of this batch's mean loss in the step's
  };

  void run_sanity_check();
  void open_training_data();
  void open_validation_data();
  void reload_data_if_due();
  void run_epoch();
  /// Training step, backward pass and, at the window's end, the update. Returns the loss.
  torch::Tensor optimize(const Batch& batch, const Window& window, int64_t batch_idx);
  /// The training step of a module that optimizes by hand.
  torch::Tensor optimize_by_hand(const Batch& batch, int64_t batch_idx);
  /// False when the module asked to skip the rest of the epoch.
  bool train_batch(Batch batch, const Window& window, int64_t batch_idx);
  void end_epoch();
  void validate();
  /// Makes the step values logged so far the newest of their names.
  void publish_step_values();
  double training_s() const;
  /// How often the run will step the schedule that the configuration chose; -1 where nobody knows.
  int64_t estimated_schedule_steps();
  void step_metric_schedulers(Interval interval, int64_t intervals_done);

  nlohmann::json validation_state() const;
  nlohmann::json data_shape() const;
  nlohmann::json position_in_data() const;
  void check_restored_data();
  void fill_window();
  void end_of_data();
  Window take_window();
  void check_loss(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const;
  void check_finite(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const;
  void log_step_metrics();
  bool stop_is_requested() const;

  Run& run_;
  Module& module_;
  Strategy& strategy_;
  CallbackList& callbacks_;
  Progress& progress_;
  const bool& should_stop_;

  EvalLoop eval_loop_;
  MetricCollector metrics_;
  std::unique_ptr<Optimization> optimization_;
  std::optional<double> clip_norm_, clip_value_;
  TrainingLimits limits_;
  std::optional<ValidationSchedule> validation_;
  DataLoader train_loader_;
  std::vector<EvalData> val_data_;
  int64_t num_batches_ = 0, num_val_batches_ = 0;

  std::deque<Batch> window_;      // batches of the window under way that are still to be trained on
  bool window_is_fresh_ = false;  // none of them was trained on yet
  double window_weight_ = 0;      // sum of loss_weight() over the whole window
  bool stepped_ = false;          // since the last edge
  bool in_step_ = false;          // train_batch() runs and its counters are not advanced yet
  bool epoch_started_ = false;    // on_train_epoch_start was called for current_epoch
  bool epoch_done_ = false;       // current_epoch is finished, the counters do not say so yet
  bool sanity_checking_ = false;
  std::chrono::steady_clock::time_point began_ = {};
  double trained_before_s_ = 0;   // by the runs that this one resumes
  nlohmann::json restored_data_;  // shape of the data a checkpoint was saved with, within an epoch
  nlohmann::json restored_validation_, restored_loader_;
  std::string restored_rng_;  // random state of a checkpoint, until training goes on
};

}  // namespace trainer
