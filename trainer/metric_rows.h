#pragma once
// What the ranks have logged in an epoch, brought together.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer {

/// The names that a rank has logged, each with some numbers.
struct MetricRow {
  std::vector<std::string> names;
  std::vector<int64_t> sizes;   ///< How many numbers each name has.
  std::vector<double> numbers;  ///< One name's after the other's.
  /// It had no batch of some loader, and may lack the names that others logged of it.
  bool lacks_batches = false;
};

struct MetricRows {
  std::vector<std::string> names;  ///< Of all ranks together, in the order of logging.
  /// By name [rank, number], float64, of the ranks that have logged it.
  std::map<std::string, torch::Tensor> numbers;
  std::map<std::string, size_t> first_rank;  ///< By name, of those ranks.
  bool is_same_on_all_ranks = true;          ///< Every rank has every name.
};

/// The value of rank 0, on every rank. Collective: yes.
std::optional<double> of_first_rank(Strategy& strategy, std::optional<double> value);

/// Throws UsageError that names two ranks with different names, though both had batches of every
/// loader. Collective: yes, one.
MetricRows gather_rows(Strategy& strategy, const MetricRow& own);

}  // namespace trainer
