#include <callbacks/early_stopping.h>

#include <cmath>
#include <exception>
#include <limits>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <callbacks/monitored.h>
#include <trainer/core/error.h>
#include <trainer/core/json.h>
#include <trainer/core/log.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string shown(double value) {
  return std::isfinite(value) ? fmt::format("{:.6g}", value) : "none";
}

}  // namespace

void EarlyStopping::Init::validate() const {
  if (monitor.empty()) {
    throw ConfigError(
        "monitor is empty. Give the name of a metric that the module logs, as val_loss.");
  }
}

EarlyStopping::EarlyStopping(Init init)
    : init_(std::move(init)), best_score_(init_.mode == "min" ? kInfinity : -kInfinity) {}

void EarlyStopping::on_validation_end(Trainer& trainer, Module&) {
  if (!init_.check_on_train_epoch_end.value_or(false)) {
    check(trainer, "after validation");
  }
}

void EarlyStopping::on_train_epoch_end(Trainer& trainer, Module&) {
  if (init_.check_on_train_epoch_end.value_or(false) || trainer.num_val_batches() == 0) {
    check(trainer, "at the end of the training epoch");
  }
}

void EarlyStopping::check(Trainer& trainer, const char* when) {
  if (trainer.stage() != Stage::kFit || trainer.sanity_checking()) {
    return;
  }
  const auto value = current(trainer, when);
  const bool stops = value && evaluate(*value);
  if (stops) {
    log::info("EarlyStopping stops training: " + message_);
  }
  if (any_rank(trainer.strategy(), stops)) {
    stopped_epoch_ = trainer.progress().current_epoch;
    trainer.should_stop = true;
  }
}

std::optional<double> EarlyStopping::current(const Trainer& trainer, const char* when) {
  if (const auto value = find_metric(trainer, init_.monitor)) {
    return value;
  }
  const std::string text =
      fmt::format("EarlyStopping, {}: {}", when, no_such_metric(trainer, init_.monitor));
  if (init_.strict) {
    throw UsageError(text +
                     "\n  Log it with on_epoch=true; where only training logs it, set "
                     "check_on_train_epoch_end: true.");
  }
  if (!std::exchange(told_of_missing_metric_, true)) {
    log::warning(text + "\n  Checks are skipped until it is there (strict: false).");
  }
  return std::nullopt;
}

bool EarlyStopping::evaluate(double value) {
  const std::string& name = init_.monitor;
  const bool is_min = init_.mode == "min";
  if (init_.check_finite && !std::isfinite(value)) {
    return stop(Reason::kNonFiniteMetric,
                fmt::format("{} is {}. Best before: {}.", name, value, shown(best_score_)));
  }
  if (init_.stopping_threshold && is_better(value, *init_.stopping_threshold)) {
    return stop(Reason::kStoppingThreshold,
                fmt::format("{} is {:.6g}, {} stopping_threshold {:.6g}.", name, value,
                            is_min ? "below" : "above", *init_.stopping_threshold));
  }
  if (init_.divergence_threshold && is_better(*init_.divergence_threshold, value)) {
    return stop(Reason::kDivergenceThreshold,
                fmt::format("{} is {:.6g}, {} divergence_threshold {:.6g}.", name, value,
                            is_min ? "above" : "below", *init_.divergence_threshold));
  }
  if (is_better(is_min ? value + init_.min_delta : value - init_.min_delta, best_score_)) {
    if (init_.verbose) {
      log::info(fmt::format("EarlyStopping: {} improved from {} to {:.6g}.", name,
                            shown(best_score_), value));
    }
    best_score_ = value;
    wait_count_ = 0;
    return false;
  }
  ++wait_count_;
  if (wait_count_ < init_.patience) {
    return false;
  }
  const std::string by =
      init_.min_delta > 0 ? fmt::format(" by more than {:.6g}", init_.min_delta) : "";
  return stop(Reason::kPatienceExhausted,
              fmt::format("{} did not improve{} in the last {}. Best: {}.", name, by,
                          wait_count_ == 1 ? "check" : fmt::format("{} checks", wait_count_),
                          shown(best_score_)));
}

bool EarlyStopping::stop(Reason reason, std::string message) {
  reason_ = reason;
  message_ = std::move(message);
  return true;
}

std::string EarlyStopping::state_key() const {
  return fmt::format("monitor={},mode={}", init_.monitor, init_.mode);
}

nlohmann::json EarlyStopping::state_dict() const {
  return {{"wait_count", wait_count_},
          {"best_score", json::number(best_score_)},
          {"stopped_epoch", stopped_epoch_},
          {"patience", init_.patience}};
}

void EarlyStopping::load_state_dict(const nlohmann::json& state) {
  try {
    const int64_t wait_count = json::to_int64(state.at("wait_count"));
    const double best_score = json::to_double(state.at("best_score"));
    const int64_t stopped_epoch = json::to_int64(state.at("stopped_epoch"));
    const int64_t patience = json::to_int64(state.at("patience"));
    if (patience != init_.patience) {
      log::info(
          fmt::format("EarlyStopping: patience is {} from here on, it was {} in the checkpoint.",
                      init_.patience, patience));
    }
    wait_count_ = wait_count;
    best_score_ = best_score;
    stopped_epoch_ = stopped_epoch;
  } catch (const std::exception& error) {
    throw CheckpointError(fmt::format(
        "EarlyStopping: its state in the checkpoint is malformed: {} ({}).\n  Resume from another "
        "checkpoint.",
        state.dump(), error.what()));
  }
}

}  // namespace trainer
