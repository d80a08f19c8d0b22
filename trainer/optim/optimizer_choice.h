#pragma once
// An optimizer and a schedule chosen by name instead of in configure_optimizers(): what YAML has
// under `optimizer`, `lr_scheduler` and the keys beside them.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <trainer/core/registry.h>
#include <trainer/optim/lr_scheduler_factory.h>
#include <trainer/optim/optimizer_config.h>
#include <trainer/optim/optimizer_factory.h>

namespace trainer {

struct OptimizerChoice {
  Spec<OptimizerFactory> optimizer = {};
  std::optional<Spec<LRSchedulerFactory>> lr_scheduler = std::nullopt;
  /// Unset: after each step; at the end of an epoch for a schedule that follows a metric.
  std::optional<Interval> interval = std::nullopt;
  int64_t frequency = 1;
  std::optional<std::string> monitor = std::nullopt;

  /// `total_steps`: how often the run will step the schedule, -1 where nobody knows. Throws
  /// ConfigError for arguments that the module or the run cannot do with.
  OptimizerConfig create(const torch::nn::Module& module, int64_t total_steps) const {
    OptimizerConfig config(optimizer.create()->create(module));
    if (lr_scheduler) {
      auto& made = *config.entries().front().optimizer;
      auto scheduler = lr_scheduler->create()->create(made, {.total_steps = total_steps});
      const auto usual = scheduler->needs_metric() ? Interval::kEpoch : Interval::kStep;
      config.add({.scheduler = std::move(scheduler),
                  .interval = interval.value_or(usual),
                  .frequency = frequency,
                  .monitor = monitor});
    }
    return config;
  }
};

}  // namespace trainer
