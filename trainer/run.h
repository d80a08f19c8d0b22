#pragma once
// The parts that one call of fit, validate, test or predict works with. The Trainer owns them;
// loops borrow them.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <trainer/callback_list.h>
#include <trainer/core/flight_record.h>
#include <trainer/data/data_module.h>
#include <trainer/logger.h>
#include <trainer/module.h>
#include <trainer/optim/optimizer_choice.h>
#include <trainer/precision.h>
#include <trainer/progress.h>
#include <trainer/strategy.h>
#include <trainer/trainer_config.h>

namespace trainer {

/// Metrics by name, as callbacks and the progress bar ask for them.
struct RunMetrics {
  std::map<std::string, double> newest;      // of every metric, under each name it has
  std::map<std::string, double> validation;  // of the newest validation
  std::map<std::string, double> prog_bar;  // those logged with prog_bar, up to the last epoch's end
};

struct Run {
  Stage stage;
  const TrainerConfig& config;
  Module& module;
  DataModule& data;
  Strategy& strategy;
  const Precision& precision;
  CallbackList callbacks;
  const std::vector<std::shared_ptr<Logger>>& loggers;
  Progress& progress;
  RunMetrics& metrics;
  /// What config.yaml and the loggers tell of the run.
  config::Node hyperparams;
  /// Instead of configure_optimizers(), where it is set.
  const std::optional<OptimizerChoice>& optimizer_choice;

  /// Hands a row to every logger, with the epoch, at the step that Lightning gives it.
  void log_metrics(Metrics row) {
    log_metrics(std::move(row), progress.stepped_batches > 0 ? progress.stepped_batches - 1 : 0);
  }
  void log_metrics(Metrics row, int64_t step) {
    if (row.empty() || loggers.empty()) {
      return;
    }
    row.emplace_back("epoch", static_cast<double>(progress.current_epoch));
    for (const auto& logger : loggers) {
      logger->log_metrics(row, step);
    }
  }

  /// Gives the step values of a batch of an evaluation to `metrics` and to the loggers, at the
  /// number of batches that were evaluated before. Syncs: where values lie on another device.
  void publish_step(MetricCollector& collector, int64_t num_seen) {
    for (const auto& [name, value] : collector.new_values()) {
      metrics.newest[name] = value;
    }
    collector.forget_new_values();
    log_metrics(collector.step_metrics(), num_seen);
  }

  /// Reduces the epoch's metrics, gives them to `metrics` and to the loggers as one row, and
  /// returns them all. Collective: yes.
  Metrics publish_epoch(MetricCollector& collector) {
    Metrics all;
    Metrics row;
    for (const auto& value : collector.reduce_epoch(strategy)) {
      metrics.newest[value.plain_name] = value.value;
      metrics.newest[value.name] = value.value;
      if (value.prog_bar) {
        metrics.prog_bar[value.name] = value.value;
      }
      all.emplace_back(value.name, value.value);
      if (value.logger) {
        row.emplace_back(value.name, value.value);
      }
    }
    log_metrics(std::move(row));
    return all;
  }

  /// This rank's part of the data.
  Division division(int64_t accumulate_grad_batches) const {
    return {.rank = strategy.rank(),
            .world_size = strategy.world_size(),
            .accumulate_grad_batches = accumulate_grad_batches,
            .shards = config.use_distributed_sampler};
  }

  /// The precision's floating-point format, and the transfer hooks of the data module around the
  /// move to the device.
  Batch transfer(Batch batch) {
    flight::note_progress(progress.global_step);
    batch = precision.convert_input(std::move(batch));
    batch = data.on_before_batch_transfer(std::move(batch));
    batch = data.transfer_batch_to_device(std::move(batch), strategy.device());
    return data.on_after_batch_transfer(std::move(batch));
  }
};

}  // namespace trainer
