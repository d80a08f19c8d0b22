#pragma once
// Shows how far a run is. On a terminal one line below the log is redrawn:
//
//   epoch 3/19  [======>   ] 30/45  412 it/s  train_loss_step=0.12  val_acc=0.97
//
// Elsewhere (a file, a batch system, CI) the same comes as a plain line now and then, so that logs
// stay readable. Both end with one line that sums the training up. Shown are the metrics logged
// with prog_bar=true; "it" is a training batch. Costs a few nanoseconds per batch between two
// lines.

#include <cstdint>
#include <string>
#include <tuple>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>
#include <trainer/logger.h>

namespace trainer {

/// What a progress line shows.
struct ProgressState {
  std::string label = "";    ///< "epoch 3/19", "validation".
  int64_t batch = 0;         ///< Batches done.
  int64_t num_batches = 0;   ///< All of them; 0 where that is unknown.
  double batches_per_s = 0;  ///< 0 where that is unknown.
  Metrics metrics = {};
};

/// One line of at most `columns` bytes: bar and metrics that do not fit are left out whole, so that
/// no number is cut. 0 columns: a line for a log, of any length and without the bar.
std::string progress_line(const ProgressState& state, int columns);

/// Tells when an interval has passed, and for that reads the clock only every few calls while these
/// follow each other fast: at most every 16th, so that the bar follows soon when batches become
/// slow.
class Pace {
 public:
  /// Seconds since any fixed moment.
  using Clock = double (*)();

  Pace(double interval_s, Clock clock)
      : interval_s_(interval_s), clock_(clock), begin_(clock()), read_at_(begin_) {}

  /// Begins an interval now.
  void restart() { begin_ = read_at_ = clock_(); }
  /// Whether the interval is over; if so a new one begins.
  bool is_due() { return --calls_until_read_ <= 0 && read_clock(); }

 private:
  bool read_clock();

  double interval_s_;
  Clock clock_;
  double begin_, read_at_;
  int stride_ = 1, calls_until_read_ = 1;
};

class ProgressBar : public Callback {
 public:
  static constexpr const char* kDoc =
      "Shows progress: a live line on a terminal, plain lines elsewhere.";

  struct Init {
    double refresh_interval_s = 0.1;
    double line_interval_s = 5.0;
    bool leave = false;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::refresh_interval_s>("Seconds between two redraws on a terminal.",
                                           at_least(0.0)),
          field<&Init::line_interval_s>("Seconds between two lines elsewhere.", at_least(0.0)),
          field<&Init::leave>("On a terminal, leave the line of every finished epoch."),
      };
    }
  };

  ProgressBar() : ProgressBar(Init{}) {}
  explicit ProgressBar(Init init);

  void setup(Trainer&, Module&, Stage) override;
  void teardown(Trainer&, Module&, Stage) override;
  void on_exception(Trainer&, Module&, const std::exception&) override;

  void on_train_start(Trainer&, Module&) override;
  void on_train_batch_end(Trainer&, Module&, const torch::Tensor&, const Batch&, int64_t) override;
  void on_train_epoch_end(Trainer&, Module&) override;
  void on_train_end(Trainer&, Module&) override;

  void on_validation_start(Trainer&, Module&) override;
  void on_validation_batch_end(Trainer&, Module&, const Batch&, int64_t batch_idx) override;
  void on_validation_end(Trainer&, Module&) override;
  void on_test_start(Trainer&, Module&) override;
  void on_test_batch_end(Trainer&, Module&, const Batch&, int64_t batch_idx) override;
  void on_predict_start(Trainer&, Module&) override;
  void on_predict_batch_end(Trainer&, Module&, const torch::Tensor&, const Batch&,
                            int64_t batch_idx) override;

 private:
  void draw(const ProgressState& state) const;
  ProgressState training_state(const Trainer& trainer);
  ProgressState evaluation_state(const Trainer& trainer, int64_t batches);
  /// Since training began, without validation.
  double training_s() const;

  Init init_;
  Pace pace_;
  bool shows_ = true;        // on rank 0 only
  int64_t first_step_ = 0;   // where this training began: not 0 when resumed
  int64_t num_batches_ = 0;  // trained on so far
  double train_begin_ = 0;   // times are in seconds of one clock
  double evaluation_begin_ = 0;
  double validation_s_ = 0;    // spent in validation since training began
  int64_t drawn_batches_ = 0;  // num_batches_ and training_s() at the last line
  double drawn_at_s_ = 0;
  double batches_per_s_ = 0;
};

}  // namespace trainer
