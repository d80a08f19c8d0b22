#pragma once
// What log() collects: the value of the last step, and the exact reduction over an epoch.
//
// A value on the processor is read at once; a value on another device stays there, is accumulated
// there, and comes back in one copy when metrics are written. Means are weighted by samples:
// sum(value * batch_size) / sum(batch_size).

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json_fwd.hpp>
#include <torch/types.h>

#include <trainer/logger.h>
#include <trainer/metric_rows.h>
#include <trainer/metrics/metric.h>
#include <trainer/strategy.h>

namespace trainer {

enum class ReduceFx { kMean, kSum, kMin, kMax };

/// How log() treats a value. Unset on_step and on_epoch follow the hook, as in Lightning: in
/// training_step and the other per-batch training hooks the step's value, in evaluation and epoch
/// hooks the epoch's.
struct LogOptions {
  std::optional<bool> on_step = std::nullopt;
  std::optional<bool> on_epoch = std::nullopt;
  bool prog_bar = false;
  bool logger = true;
  ReduceFx reduce_fx = ReduceFx::kMean;
  /// Weight of this value in the epoch's mean; default: the samples in the batch.
  std::optional<int64_t> batch_size = std::nullopt;
  /// With several evaluation loaders, whether the name gets "/dataloader_idx_N".
  bool add_dataloader_idx = true;
};

/// Collects the logged values of one loop.
class MetricCollector {
 public:
  /// What the hook that runs now may log, and its defaults.
  enum class Scope { kForbidden, kTrainBatch, kEvalBatch, kEpoch };

  /// Sets what log() calls mean until the next call. `hook` names it in errors. Values of a batch
  /// of size 0 count for nothing in the epoch.
  void enter(Scope scope, const char* hook, int64_t batch_size = 1) {
    scope_ = scope;
    hook_ = hook;
    batch_size_ = batch_size;
  }

  /// This rank had no batch of a loader in this epoch: names may be missing that others have.
  void miss_batches() { lacks_batches_ = true; }

  /// What is added to names from now on: "/dataloader_idx_1" with several loaders.
  void set_suffix(std::string suffix) { suffix_ = std::move(suffix); }

  /// Throws UsageError, naming the key, for a value that is not one number, a hook that cannot log,
  /// a key logged with other options before. Syncs: no.
  void log(std::string_view name, const torch::Tensor& value, const LogOptions& options);
  void log(std::string_view name, double value, const LogOptions& options);
  /// A metric that keeps its state: the step's value is that of its newest update, the epoch's that
  /// of all. `reduce_fx` and `batch_size` have no meaning for it.
  void log(std::string_view name, metrics::Metric& metric, const LogOptions& options);
  /// The metric was logged, under any name.
  bool knows(const metrics::Metric& metric) const;

  /// The values of the last step that were logged on_step: for loggers, or those shown in the
  /// progress bar.
  Metrics step_metrics() { return last_values(&LogOptions::logger); }
  Metrics progress_bar_metrics() { return last_values(&LogOptions::prog_bar); }
  /// Some name was logged with on_step since the last epoch's end.
  bool has_step_values() const;
  /// Step values logged since the last forget_new_values(), under every name a callback may ask
  /// for.
  Metrics new_values();
  void forget_new_values();
  /// The epoch's reductions over its batches and over `strategy`'s ranks: all names in one copy
  /// from the device and one collective. A rank that logged
  /// nothing at all takes part with nothing; ranks that logged other names than rank 0 are named in
  /// a UsageError. Collective: yes. Syncs: yes.
  struct EpochValue {
    std::string name;        // as loggers see it: with _epoch where the step is logged too
    std::string plain_name;  // as it was logged
    double value;
    bool logger;
    bool prog_bar;
  };
  std::vector<EpochValue> reduce_epoch(Strategy& strategy);
  /// Forgets the epoch's sums; called after reduce_epoch().
  void reset_epoch();

  /// Metrics that keep a state, by the names under which their module knows them.
  using NamedMetrics = std::map<std::string, metrics::Metric*>;
  nlohmann::json state_dict(const NamedMetrics& all);
  void load_state_dict(const nlohmann::json& state, const NamedMetrics& all);

 private:
  struct Entry {
    /// The names of its values, for loggers: with _step and _epoch where both are logged.
    std::string step_name() const;
    std::string epoch_name() const;

    std::string name;
    LogOptions options;   // with on_step and on_epoch resolved
    std::string loader;   // the suffix when it was logged first in this epoch
    bool fresh = false;   // logged since the last epoch's end
    bool is_new = false;  // logged since forget_new_values()
    bool has_epoch = false;
    double last = 0;
    double reduced = 0;  // sum of value * weight, sum, minimum or maximum
    double weight = 0;
    metrics::Metric* metric = nullptr;  // that the name stands for, where it keeps its state itself
    torch::Tensor device_last;
    torch::Tensor device_reduced;  // float64 scalar on the value's device
  };

  /// It has, on some rank at least, a value at the epoch's end.
  static bool is_of_epoch(const Entry& e) { return e.fresh && *e.options.on_epoch; }
  Entry& entry(std::string_view name, const LogOptions& options, metrics::Metric* metric = nullptr);
  void take(Entry& e, const torch::Tensor& value);
  Entry& add(Entry made);
  void check_name(std::string_view name, const metrics::Metric* metric) const;
  void check_same_use(const Entry& existing, const LogOptions& resolved,
                      const metrics::Metric* metric) const;
  /// The step values of this epoch whose options have `wanted`.
  Metrics last_values(bool LogOptions::*wanted);
  /// The weight of a value in the epoch's mean.
  double weight_of(const LogOptions& options) const {
    return batch_size_ == 0 ? 0 : static_cast<double>(options.batch_size.value_or(batch_size_));
  }
  MetricRow epoch_row();
  std::vector<EpochValue> merged(const MetricRows& rows) const;
  void accumulate(Entry& e, double value);
  void accumulate(Entry& e, const torch::Tensor& value, double weight);
  /// Brings every value that still lies on another device here, and the elements of `more`, in one
  /// copy.
  std::vector<double> fetch(const std::vector<torch::Tensor>& more = {});

  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>> index_;
  std::vector<Entry> entries_;  // in the order of first use
  bool lacks_batches_ = false;
  std::string suffix_;
  Scope scope_ = Scope::kForbidden;
  const char* hook_ = "code outside of a run";
  int64_t batch_size_ = 1;
};

}  // namespace trainer
