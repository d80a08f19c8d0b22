#pragma once
// What Module::configure_optimizers() returns: optimizers, and the schedules of their learning
// rates if there are any.

#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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
  /// The logged metric that a schedule as ReduceLROnPlateau is stepped with.
  std::optional<std::string> monitor = std::nullopt;
  /// Whether it is an error that the metric was not logged.
  bool strict = true;
};

/// Every shape that configure_optimizers() may return:
///
///   return optimizer;                                            // alone
///   return {std::move(optimizer), {.scheduler = std::move(schedule), .interval =
///   Interval::kStep}};
///   return OptimizerConfig(std::move(optimizer)).add(...).add(...);  // several schedules
///   return {std::move(generator), std::move(discriminator)};     // several, for manual
///                                                                // optimization
///   return {OptimizerConfig(...), OptimizerConfig(...)};         // several with schedules
///   return {OptimizerConfig(...).frequency(1), OptimizerConfig(...).frequency(5)};  // in turn
///   return {};                                                   // none, for manual optimization
class OptimizerConfig {
 public:
  struct Entry {
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    std::vector<LRSchedulerConfig> lr_schedulers = {};
    int64_t frequency = 0;  // 0: not declared
  };

  OptimizerConfig() = default;
  template <std::derived_from<torch::optim::Optimizer> O>
  OptimizerConfig(std::unique_ptr<O> o) {  // NOLINT: implicit so that a plain return works
    entries_.push_back({std::move(o)});
  }
  template <std::derived_from<torch::optim::Optimizer> O>
  OptimizerConfig(std::unique_ptr<O> o, LRSchedulerConfig schedule)
      : OptimizerConfig(std::move(o)) {
    add(std::move(schedule));
  }
  template <std::convertible_to<OptimizerConfig>... More>
  requires(sizeof...(More) > 0) OptimizerConfig(OptimizerConfig first, More... more)
      : OptimizerConfig(std::move(first)) {
    (append(OptimizerConfig(std::move(more))), ...);
  }

  /// One more schedule of the last optimizer.
  OptimizerConfig& add(LRSchedulerConfig schedule) & {
    entries_.back().lr_schedulers.push_back(std::move(schedule));
    return *this;
  }
  OptimizerConfig&& add(LRSchedulerConfig schedule) && {
    return std::move(add(std::move(schedule)));
  }

  /// Several optimizers may take turns in automatic optimization: this one `steps` steps in a row,
  /// then the next. In training_step(), progress().optimizer_idx tells whose turn it is; parameters
  /// that only others update require no gradient meanwhile.
  OptimizerConfig& frequency(int64_t steps) & {
    entries_.back().frequency = steps;
    return *this;
  }
  OptimizerConfig&& frequency(int64_t steps) && { return std::move(frequency(steps)); }

  std::vector<Entry>& entries() { return entries_; }

 private:
  void append(OptimizerConfig config) {
    for (auto& entry : config.entries_) {
      entries_.push_back(std::move(entry));
    }
  }

  std::vector<Entry> entries_;
};

}  // namespace trainer
