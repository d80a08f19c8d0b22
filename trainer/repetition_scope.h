#pragma once
// A batch that counts for nothing.

#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/metrics/metric.h>
#include <trainer/run.h>

namespace trainer {

/// While a rank that has no samples left goes through a repeated batch beside the others: what the
/// step tells its metrics is forgotten.
class RepetitionScope {
 public:
  RepetitionScope(Run& run, bool is_repeated) : run_(run), is_repeated_(is_repeated) {
    if (is_repeated_) {
      run_.strategy.set_batch_counts(false);
      for (const auto& [name, metric] : registered_metrics(run_.module)) {
        states_.emplace_back(metric, metric->state_dict());
      }
    }
  }
  RepetitionScope(const RepetitionScope&) = delete;
  RepetitionScope& operator=(const RepetitionScope&) = delete;
  ~RepetitionScope() {
    if (is_repeated_) {
      run_.strategy.set_batch_counts(true);
      for (const auto& [metric, state] : states_) {
        metric->load_state_dict(state);
      }
    }
  }

 private:
  Run& run_;
  const bool is_repeated_;
  std::vector<std::pair<metrics::Metric*, nlohmann::json>> states_;
};

}  // namespace trainer
