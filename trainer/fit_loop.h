#pragma once
// The training loop: epochs, batches, and the step in one function, train_batch(). docs/step.md
// tells its order.

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/eval_loop.h>
#include <trainer/metrics.h>
#include <trainer/optim/optimizer_config.h>
#include <trainer/run.h>

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

  torch::optim::Optimizer& optimizer() { return *optimizer_; }
  LRScheduler* lr_scheduler() { return lr_scheduler_.scheduler.get(); }
  MetricCollector& metrics() { return metrics_; }
  int64_t num_training_batches() const { return num_batches_; }
  int64_t num_val_batches() const { return num_val_batches_; }
  bool sanity_checking() const { return sanity_checking_; }
  /// Between two optimizer steps: the state is whole and can be saved.
  bool at_step_edge() const { return window_.empty() && !in_step_; }
  /// Validation runs at the end of this epoch or within it.
  bool validates_in_this_epoch() const;
  /// max_steps or max_epochs is reached.
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
  void open_validation_data();
  void run_epoch();
  void train_batch(Batch batch, const Window& window, int64_t batch_idx);
  void end_epoch();
  void validate();
  /// Makes the step values logged so far the newest of their names.
  void publish_step_values();
  int64_t batches_between_validations() const;

  nlohmann::json data_shape() const;
  void check_restored_data();
  void fill_window();
  Window take_window();
  void check_loss(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const;
  void check_finite(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const;
  void step_lr_scheduler(Interval interval, int64_t intervals_done);
  void log_step_metrics();
  bool validation_is_due() const;
  bool stop_is_requested() const;

  Run& run_;
  Module& module_;
  Strategy& strategy_;
  CallbackList& callbacks_;
  Progress& progress_;
  const bool& should_stop_;

  EvalLoop eval_loop_;
  MetricCollector metrics_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  LRSchedulerConfig lr_scheduler_;
  std::optional<double> clip_norm_, clip_value_;
  DataLoader train_loader_, val_loader_;
  int64_t num_batches_ = 0, num_val_batches_ = 0;

  std::deque<Batch> window_;      // batches of the window under way that are still to be trained on
  bool window_is_fresh_ = false;  // none of them was trained on yet
  double window_weight_ = 0;      // sum of loss_weight() over the whole window
  int64_t validated_at_ = -1;     // batch of this epoch after which validation ran last
  bool in_step_ = false;          // train_batch() runs and its counters are not advanced yet
  bool epoch_started_ = false;    // on_train_epoch_start was called for current_epoch
  bool epoch_done_ = false;       // current_epoch is finished, the counters do not say so yet
  bool sanity_checking_ = false;
  nlohmann::json restored_data_;  // shape of the data a checkpoint was saved with, within an epoch
  std::string restored_rng_;      // random state of a checkpoint, until training goes on
};

}  // namespace trainer
