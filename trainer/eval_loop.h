#pragma once
// One pass over validation, test or prediction data, with gradients off and the module in eval
// mode.

#include <vector>

#include <trainer/metrics.h>
#include <trainer/run.h>

namespace trainer {

/// Which of the hooks a pass calls.
enum class EvalKind { kValidation, kTest };

class EvalLoop {
 public:
  explicit EvalLoop(Run& run) : run_(run) {}

  /// Runs `num_batches` batches and returns the epoch's metrics, having given them to loggers and
  /// callback_metrics. Leaves the module's modes, and the random numbers that training will draw,
  /// as they were. Collective: yes.
  Metrics run(EvalKind kind, DataLoader& loader, int64_t num_batches);

  /// The same without a trace: metrics are discarded, nothing is logged, monitoring callbacks are
  /// not asked.
  void run_sanity_check(DataLoader& loader, int64_t num_batches);

  /// The predictions of every batch, on the processor.
  std::vector<torch::Tensor> predict(DataLoader& loader, int64_t num_batches);

 private:
  void evaluate(EvalKind kind, DataLoader& loader, int64_t num_batches, MetricCollector& metrics,
                Metrics* result);

  Run& run_;
};

}  // namespace trainer
