#include <callbacks/progress_bar.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include <trainer/core/console.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string bar(int64_t done, int64_t all) {
  constexpr int64_t kWidth = 10;
  const int64_t filled = std::clamp<int64_t>(done * kWidth / all, 0, kWidth);
  std::string text(static_cast<size_t>(filled), '=');
  text += filled < kWidth ? ">" : "";
  text.resize(kWidth, ' ');
  return "[" + text + "] ";
}

std::string rate(double per_s) {
  if (per_s < 1) {
    return fmt::format("{:.3g} s/it", 1 / per_s);
  }
  return per_s < 100 ? fmt::format("{:.3g} it/s", per_s) : fmt::format("{:.0f} it/s", per_s);
}

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 60) {
    return fmt::format("{:.1f} s", seconds);
  }
  return whole < 3600 ? fmt::format("{} min {} s", whole / 60, whole % 60)
                      : fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

/// One less than there are: some terminals wrap after the last one.
int live_columns() { return std::max(1, console::columns() - 1); }

std::string metric_text(const std::pair<std::string, double>& metric) {
  return fmt::format("  {}={:.4g}", metric.first, metric.second);
}

/// "epoch 3/19": the epoch and the last one, from 0 as everywhere.
std::string epoch_label(const Trainer& trainer) {
  const auto& config = trainer.config();
  const int64_t max_epochs = config.max_epochs.value_or(config.max_steps >= 0 ? -1 : 1000);
  const int64_t epoch = trainer.progress().current_epoch;
  return max_epochs < 0 ? fmt::format("epoch {}", epoch)
                        : fmt::format("epoch {}/{}", epoch, max_epochs - 1);
}

}  // namespace

std::string progress_line(const ProgressState& state, int columns) {
  const bool for_log = columns <= 0;
  const bool is_known = state.num_batches > 0;
  const std::string label = state.label + "  ";
  const std::string drawn_bar = is_known && !for_log ? bar(state.batch, state.num_batches) : "";
  std::string count = is_known ? fmt::format("{}/{}", state.batch, state.num_batches)
                               : fmt::format("{}", state.batch);
  count += state.batches_per_s > 0 ? "  " + rate(state.batches_per_s) : "";

  const auto fits = [&](size_t size) { return for_log || size <= static_cast<size_t>(columns); };
  std::string line =
      label + (fits(label.size() + drawn_bar.size() + count.size()) ? drawn_bar : "") + count;
  for (const auto& metric : state.metrics) {
    const std::string text = metric_text(metric);
    line += fits(line.size() + text.size()) ? text : "";
  }
  return fits(line.size()) ? line : line.substr(0, static_cast<size_t>(columns));
}

bool Pace::read_clock() {
  constexpr int kMaxStride = 16;
  const double now = clock_();
  const double since_read = now - std::exchange(read_at_, now);
  stride_ = since_read * kMaxStride < interval_s_ ? std::min(2 * stride_, kMaxStride) : 1;
  calls_until_read_ = stride_;
  if (now - begin_ < interval_s_) {
    return false;
  }
  begin_ = now;
  return true;
}

ProgressBar::ProgressBar(Init init)
    : init_(init),
      pace_(console::is_live() ? init.refresh_interval_s : init.line_interval_s, now_s) {}

void ProgressBar::setup(Trainer& trainer, Module&, Stage) {
  shows_ = trainer.strategy().is_global_zero();
  pace_.restart();
}

void ProgressBar::teardown(Trainer&, Module&, Stage) { console::clear_status(); }

void ProgressBar::on_exception(Trainer&, Module&, const std::exception&) {
  console::clear_status();
}

void ProgressBar::on_train_start(Trainer& trainer, Module&) {
  first_step_ = trainer.progress().global_step;
  train_begin_ = now_s();
  validation_s_ = 0;
  num_batches_ = drawn_batches_ = 0;
  drawn_at_s_ = batches_per_s_ = 0;
}

void ProgressBar::on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                                     int64_t) {
  ++num_batches_;
  if (shows_ && pace_.is_due()) {
    draw(training_state(trainer));
  }
}

void ProgressBar::on_train_epoch_end(Trainer& trainer, Module&) {
  if (shows_ && init_.leave && console::is_live()) {
    console::write_line(progress_line(training_state(trainer), live_columns()));
  }
}

void ProgressBar::on_train_end(Trainer& trainer, Module&) {
  console::clear_status();
  if (!shows_) {
    return;
  }
  const int64_t steps = trainer.progress().global_step - first_step_;
  const double seconds = training_s();
  std::string line = fmt::format("trained {} {} in {}", steps, steps == 1 ? "step" : "steps",
                                 duration(now_s() - train_begin_));
  if (num_batches_ > 0 && seconds > 0) {
    line += ", " + rate(static_cast<double>(num_batches_) / seconds);
  }
  for (const auto& metric : trainer.progress_bar_metrics()) {
    line += metric_text(metric);
  }
  console::write_line(line);
}

void ProgressBar::on_validation_start(Trainer&, Module&) { evaluation_begin_ = now_s(); }
void ProgressBar::on_test_start(Trainer&, Module&) { evaluation_begin_ = now_s(); }
void ProgressBar::on_predict_start(Trainer&, Module&) { evaluation_begin_ = now_s(); }

void ProgressBar::on_validation_end(Trainer&, Module&) {
  validation_s_ += now_s() - evaluation_begin_;
}

void ProgressBar::on_validation_batch_end(Trainer& trainer, Module&, const Batch&,
                                          int64_t batch_idx) {
  if (shows_ && pace_.is_due()) {
    draw(evaluation_state(trainer, batch_idx + 1));
  }
}

void ProgressBar::on_test_batch_end(Trainer& trainer, Module&, const Batch&, int64_t batch_idx) {
  if (shows_ && pace_.is_due()) {
    draw(evaluation_state(trainer, batch_idx + 1));
  }
}

void ProgressBar::on_predict_batch_end(Trainer& trainer, Module&, const torch::Tensor&,
                                       const Batch&, int64_t batch_idx) {
  if (shows_ && pace_.is_due()) {
    draw(evaluation_state(trainer, batch_idx + 1));
  }
}

void ProgressBar::draw(const ProgressState& state) const {
  if (console::is_live()) {
    console::set_status(progress_line(state, live_columns()));
  } else {
    console::write_line(progress_line(state, 0));
  }
}

ProgressState ProgressBar::training_state(const Trainer& trainer) {
  const double at_s = training_s();
  const double since_s = at_s - drawn_at_s_;
  if (since_s > 0) {
    const double newest = static_cast<double>(num_batches_ - drawn_batches_) / since_s;
    // About the mean of the last second: the newest alone would flicker.
    const double weight = batches_per_s_ > 0 ? 1 - std::exp(-since_s) : 1;
    batches_per_s_ += weight * (newest - batches_per_s_);
    drawn_at_s_ = at_s;
    drawn_batches_ = num_batches_;
  }
  return {.label = epoch_label(trainer),
          .batch = trainer.progress().batch_idx,
          .num_batches = trainer.num_training_batches(),
          .batches_per_s = batches_per_s_,
          .metrics = trainer.progress_bar_metrics()};
}

ProgressState ProgressBar::evaluation_state(const Trainer& trainer, int64_t batches) {
  ProgressState state{.label = to_string(trainer.stage()), .batch = batches};
  if (const double seconds = now_s() - evaluation_begin_; seconds > 0) {
    state.batches_per_s = static_cast<double>(batches) / seconds;
  }
  if (trainer.sanity_checking()) {
    state.label = "sanity check";
  } else if (trainer.stage() == Stage::kFit) {
    state.label = "validation";
    state.num_batches = trainer.num_val_batches();
    state.metrics = trainer.progress_bar_metrics();
  }
  return state;
}

double ProgressBar::training_s() const { return now_s() - train_begin_ - validation_s_; }

}  // namespace trainer
