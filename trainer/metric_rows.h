#pragma once
// What the ranks have logged in an epoch, brought together.

#include <string>
#include <vector>

#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer {

/// The names that a rank has logged, and for each of them some numbers, one after the other.
struct MetricRow {
  std::vector<std::string> names;
  std::vector<double> numbers;
};

/// The rows of the ranks that have logged anything: [rank, number], float64. Some may have logged
/// nothing, as a rank without a batch of an evaluation.
struct MetricRows {
  torch::Tensor numbers;
  int first_rank = 0;  ///< The first that has logged something.
  bool is_of_all_ranks = true;
};

/// Throws UsageError that names two ranks with different names. Collective: yes, one.
MetricRows gather_rows(Strategy& strategy, const MetricRow& own);

}  // namespace trainer
