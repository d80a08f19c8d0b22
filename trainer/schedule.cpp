#include <trainer/schedule.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>

namespace trainer {
namespace {

using Unit = Duration::Unit;

constexpr int64_t kDefaultMaxEpochs = 1000;

/// The batches of an epoch that a fraction of it stands for.
int64_t batches_of(double fraction, int64_t num_batches) {
  if (num_batches != kAllBatches) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(num_batches) * fraction));
  }
  if (fraction != 1.0) {
    throw ConfigError(fmt::format(
        "trainer.val_check_interval: {} of an epoch whose number of batches nobody knows. Write a "
        "number of batches, a duration, or 1.0.",
        fraction));
  }
  return kAllBatches;
}

}  // namespace

TrainingLimits::TrainingLimits(const TrainerConfig& config)
    : max_epochs_(config.max_epochs.value_or(-1)),
      max_steps_(config.max_steps),
      min_epochs_(config.min_epochs.value_or(0)),
      min_steps_(config.min_steps.value_or(0)) {
  if (config.max_time) {
    max_seconds_ = config.max_time->count;
  }
  if (config.max_duration) {
    const double count = config.max_duration->count;
    const auto lower = [&](int64_t& limit) {
      const auto whole = static_cast<int64_t>(count);
      limit = limit < 0 ? whole : std::min(limit, whole);
    };
    switch (config.max_duration->unit) {
      case Unit::kEpochs: lower(max_epochs_); break;
      case Unit::kSteps: lower(max_steps_); break;
      case Unit::kBatches: max_batches_ = count; break;
      case Unit::kSamples: max_samples_ = count; break;
      case Unit::kSeconds: max_seconds_ = std::min(max_seconds_.value_or(count), count); break;
    }
  }
  const bool is_limited = config.max_epochs || max_steps_ >= 0 || max_seconds_ ||
                          max_epochs_ >= 0 || max_batches_ || max_samples_;
  if (!is_limited) {
    max_epochs_ = kDefaultMaxEpochs;
  }
}

bool TrainingLimits::is_reached(const Progress& progress, double training_s) const {
  return (max_steps_ >= 0 && progress.global_step >= max_steps_) ||
         (max_epochs_ >= 0 && progress.current_epoch >= max_epochs_) ||
         (max_samples_ && static_cast<double>(progress.samples) >= *max_samples_) ||
         (max_batches_ && static_cast<double>(progress.batches) >= *max_batches_) ||
         (max_seconds_ && training_s >= *max_seconds_);
}

bool TrainingLimits::may_stop(const Progress& progress) const {
  return progress.current_epoch >= min_epochs_ && progress.global_step >= min_steps_;
}

int64_t TrainingLimits::max_steps(int64_t num_batches,
                                  const Accumulation& accumulate_grad_batches) const {
  if (max_samples_) {
    return -1;  // batches may differ in size
  }
  if (num_batches == kAllBatches || (max_epochs_ < 0 && !max_batches_)) {
    return max_steps_;
  }
  int64_t steps = 0;
  int64_t left = max_batches_ ? static_cast<int64_t>(std::ceil(*max_batches_)) : kAllBatches;
  for (int64_t epoch = 0; left > 0 && (max_epochs_ < 0 || epoch < max_epochs_); ++epoch) {
    const int64_t window = accumulate_grad_batches.at(epoch);
    const int64_t batches = std::min(left, num_batches);
    steps += (batches + window - 1) / window;
    left -= batches;
  }
  return max_steps_ < 0 ? steps : std::min(max_steps_, steps);
}

ValidationSchedule::ValidationSchedule(const TrainerConfig& config, int64_t num_batches)
    : every_n_epochs_(config.check_val_every_n_epoch) {
  if (const auto* duration = std::get_if<Duration>(&config.val_check_interval)) {
    if (duration->is_time()) {
      seconds_ = duration->count;
      return;
    }
    counted_ = duration->unit == Unit::kSteps     ? Counted::kSteps
               : duration->unit == Unit::kSamples ? Counted::kSamples
                                                  : Counted::kBatches;
    interval_ = static_cast<int64_t>(duration->count);
    return;
  }
  if (const auto* fraction = std::get_if<double>(&config.val_check_interval)) {
    interval_ = batches_of(*fraction, num_batches);
    return;
  }
  interval_ = std::get<int64_t>(config.val_check_interval);
  if (!every_n_epochs_) {
    counted_ = Counted::kBatches;
  } else if (interval_ > num_batches) {
    throw ConfigError(fmt::format(
        "trainer.val_check_interval: {} batches, but an epoch has {}: validation would never run. "
        "Give at most {}, or a fraction of an epoch as a float (1.0), or check_val_every_n_epoch: "
        "null to count batches across epochs.",
        interval_, num_batches, num_batches));
  }
}

bool ValidationSchedule::runs_in_epoch(int64_t epoch) const {
  return !every_n_epochs_ || (epoch + 1) % *every_n_epochs_ == 0;
}

int64_t ValidationSchedule::position(const Progress& progress) const {
  switch (counted_) {
    case Counted::kBatchesOfEpoch: return progress.batch_idx;
    case Counted::kBatches: return progress.batches;
    case Counted::kSteps: return progress.global_step;
    case Counted::kSamples: return progress.samples;
  }
  return 0;
}

bool ValidationSchedule::is_due(const Progress& progress, double training_s,
                                bool epoch_is_over) const {
  const int64_t at = position(progress);
  if (at == 0 || at == ran_at_ || !runs_in_epoch(progress.current_epoch)) {
    return false;
  }
  if (seconds_) {
    return training_s - ran_at_s_ >= *seconds_;
  }
  if (interval_ == kAllBatches) {
    return epoch_is_over;
  }
  // Once a multiple of the interval was passed since it ran last.
  return at / interval_ > std::max<int64_t>(ran_at_, 0) / interval_;
}

void ValidationSchedule::ran(const Progress& progress, double training_s) {
  ran_at_ = position(progress);
  ran_at_s_ = training_s;
}

void ValidationSchedule::begin_epoch() {
  if (counted_ == Counted::kBatchesOfEpoch) {
    ran_at_ = -1;
  }
}

nlohmann::json ValidationSchedule::state_dict() const {
  return {{"ran_at", ran_at_}, {"ran_at_s", ran_at_s_}};
}

void ValidationSchedule::load_state_dict(const nlohmann::json& state) {
  ran_at_ = json::to_int64(state.at("ran_at"));
  ran_at_s_ = state.at("ran_at_s");
}

}  // namespace trainer
