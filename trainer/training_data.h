#pragma once
// The training batches of a fit, in the windows that make one optimizer step each, and where in
// them a run is.

#include <deque>
#include <utility>

#include <nlohmann/json.hpp>

#include <trainer/run.h>

namespace trainer {

class TrainingData {
 public:
  /// A batch's place among those that make one optimizer step together.
  struct Place {
    bool is_first;
    bool is_last;
    double weight;           // of this batch's mean loss in the step's, times the ranks
    int64_t dataloader_idx;  // of the loaders in a sequential CombinedLoader
    int64_t samples;         // of all ranks
    bool counts;             // not a repetition, for a rank that has no samples left
  };

  explicit TrainingData(Run& run) : run_(run) {}

  /// Asks the data module for the loader. Throws DataError when there is nothing to train on.
  void open();
  bool is_open() const { return static_cast<bool>(loader_); }
  /// Of an epoch; kAllBatches where only the end of the data tells.
  int64_t num_batches() const { return num_batches_; }
  bool epoch_is_over() const { return run_.progress.batch_idx >= num_batches_; }

  /// Begins the current epoch, or goes on within it.
  void start();
  void stop() { loader_.stop(); }
  /// Before a new epoch: brings its batches in line with its accumulation (global_batch_size).
  /// True where their number changed.
  bool begin_epoch();

  /// Fetches the batches of the next optimizer step. Where only the ranks together know how many
  /// they have, or how much they weigh, they ask each other: Collective. False where the data ended
  /// before one, which only a stream does unforeseen: epoch_is_over() from then on.
  bool fetch_window();
  bool window_is_empty() const { return window_.empty(); }
  bool window_has_no_samples() const { return window_samples_ == 0; }
  /// Gives up the window; how many batches it had.
  int64_t drop_window();
  std::pair<Batch, Place> next();
  /// Gives up the rest of the epoch.
  void skip_rest();

  /// Position and shape of the data; nothing of an epoch that is done.
  nlohmann::json state_dict(bool epoch_is_done) const;
  void load_state_dict(const nlohmann::json& state);
  /// Throws CheckpointError where the restored position means other samples now. After open().
  void check_restored();

 private:
  void count_batches();
  nlohmann::json shape() const;
  bool go_on_elsewhere(const nlohmann::json& saved, const nlohmann::json& present);
  void fetch_own(int64_t wanted);
  void sum_over_ranks(int64_t wanted);

  Run& run_;
  DataLoader loader_;
  int64_t num_batches_ = 0;
  struct Fetched {
    Batch batch;
    int64_t dataloader_idx;
    double weight = 1;
    int64_t samples = 0;
    bool counts = true;
  };
  std::deque<Fetched> window_;    // batches of the window under way that are still to be trained on
  bool window_is_fresh_ = false;  // none of them was trained on yet
  double window_weight_ = 0;      // sum of loss_weight() over the whole window, and all ranks
  int64_t window_samples_ = 0;    // of all ranks
  bool ranks_are_even_ = true;    // every rank's batches have the same weight in this window
  bool is_known_alone_ = true;    // no rank has to ask another one
  Batch repeated_;                // for a rank whose data ended before that of others
  nlohmann::json restored_shape_, restored_loader_;
};

}  // namespace trainer
