#pragma once
// One pass over validation, test or prediction data, with gradients off and the module in eval
// mode.

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <trainer/metric_collector.h>
#include <trainer/run.h>

namespace trainer {

/// Which of the hooks a pass calls.
enum class EvalKind { kValidation, kTest };

/// A loader and how many of its batches a pass takes.
struct EvalData {
  DataLoader loader;
  int64_t num_batches = 0;
};

/// The loaders with this rank's part of the batches that `limit` leaves of each. Throws ConfigError
/// as limited_batches().
std::vector<EvalData> limited(std::vector<DataLoader> loaders, const Division& division,
                              const BatchLimit& limit, const char* name);
int64_t num_batches(const std::vector<EvalData>& data);

class EvalLoop {
 public:
  explicit EvalLoop(Run& run) : run_(run) {}

  /// Runs over all data and returns the epoch's metrics, having given them to loggers and
  /// callback_metrics; nothing where a signal to stop came within fit, which the pass gives up for.
  /// Leaves the module's modes, and the random numbers that training will draw, as they were.
  /// Collective: yes.
  std::optional<Metrics> run(EvalKind kind, std::vector<EvalData>& data);

  /// `num_batches` of each loader at most, without a trace: metrics are discarded, nothing is
  /// logged, monitoring callbacks are not asked.
  void run_sanity_check(std::vector<EvalData>& data, int64_t num_batches);

  /// The predictions of every batch, on the processor.
  std::vector<torch::Tensor> predict(std::vector<EvalData>& data);

  /// Batches that logged step values since fit began, of each loader: what such rows count.
  const std::vector<int64_t>& num_seen() const { return num_seen_; }
  void set_num_seen(std::vector<int64_t> num_seen) { num_seen_ = std::move(num_seen); }

 private:
  void set_dataloader_idx(size_t index, const std::vector<EvalData>& data);
  /// False where it was given up.
  bool evaluate(EvalKind kind, std::vector<EvalData>& data, int64_t max_batches,
                MetricCollector& metrics, Metrics* result);
  void go_through(Batch batch, const std::function<void(const Batch&)>& step);
  bool is_given_up(const MetricCollector& metrics) const;

  Run& run_;
  std::vector<int64_t> num_seen_;
};

}  // namespace trainer
