#pragma once
// The parts that one call of fit, validate, test or predict works with. The Trainer owns them;
// loops borrow them.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <trainer/callback_list.h>
#include <trainer/data/data_module.h>
#include <trainer/logger.h>
#include <trainer/module.h>
#include <trainer/precision.h>
#include <trainer/progress.h>
#include <trainer/strategy.h>
#include <trainer/trainer_config.h>

namespace trainer {

struct Run {
  const TrainerConfig& config;
  Module& module;
  DataModule& data;
  Strategy& strategy;
  const Precision& precision;
  CallbackList callbacks;
  const std::vector<std::shared_ptr<Logger>>& loggers;
  Progress& progress;
  /// The newest value of every metric under its plain name, for callbacks.
  std::map<std::string, double>& callback_metrics;
  /// The metrics of the newest validation.
  std::map<std::string, double>& validation_metrics;

  /// Hands a row to every logger, with the epoch, at the step that Lightning gives it.
  void log_metrics(Metrics metrics) {
    if (metrics.empty() || loggers.empty()) {
      return;
    }
    metrics.emplace_back("epoch", static_cast<double>(progress.current_epoch));
    const int64_t step = progress.global_step > 0 ? progress.global_step - 1 : 0;
    for (const auto& logger : loggers) {
      logger->log_metrics(metrics, step);
    }
  }

  /// Reduces the epoch's metrics, gives them to callback_metrics and to the loggers as one row, and
  /// returns them all. Collective: yes.
  Metrics publish_epoch(MetricCollector& metrics) {
    Metrics all;
    Metrics row;
    for (const auto& value : metrics.reduce_epoch(strategy)) {
      callback_metrics[value.plain_name] = value.value;
      callback_metrics[value.name] = value.value;
      all.emplace_back(value.name, value.value);
      if (value.logger) {
        row.emplace_back(value.name, value.value);
      }
    }
    log_metrics(std::move(row));
    return all;
  }

  /// The transfer hooks of the data module around the move to the device.
  Batch transfer(Batch batch) {
    batch = data.on_before_batch_transfer(std::move(batch));
    batch = data.transfer_batch_to_device(std::move(batch), strategy.device());
    return data.on_after_batch_transfer(std::move(batch));
  }
};

}  // namespace trainer
