#pragma once
// What Module::configure_optimizers() returns: an optimizer, and a schedule of its learning rate if
// there is one.

#include <concepts>
#include <memory>

#include <torch/optim/optimizer.h>

#include <trainer/optim/lr_scheduler.h>

namespace trainer {

/// When a scheduler is stepped: after each optimizer step, or at the end of each epoch.
enum class Interval { kStep, kEpoch };

/// A schedule and how often it is stepped; `frequency` counts optimizer steps or epochs.
struct LRSchedulerConfig {
  std::unique_ptr<LRScheduler> scheduler = nullptr;
  Interval interval = Interval::kEpoch;
  int64_t frequency = 1;
};

/// Made from an optimizer alone, or from an optimizer and a schedule:
///
///   return std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(1e-3));
///
///   auto optimizer = std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(1e-3));
///   auto scheduler = std::make_unique<WarmupCosineLR>(*optimizer, 100, 2000);
///   return {std::move(optimizer), {.scheduler = std::move(scheduler), .interval =
///   Interval::kStep}};
struct OptimizerConfig {
  template <std::derived_from<torch::optim::Optimizer> O>
  OptimizerConfig(std::unique_ptr<O> o,
                  LRSchedulerConfig s = {})  // NOLINT: implicit so that a plain return works
      : optimizer(std::move(o)), lr_scheduler(std::move(s)) {}

  std::unique_ptr<torch::optim::Optimizer> optimizer;
  LRSchedulerConfig lr_scheduler;
};

}  // namespace trainer
