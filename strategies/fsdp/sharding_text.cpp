#include <strategies/fsdp/sharding_text.h>

#include <algorithm>

#include <fmt/format.h>
#include <torch/utils.h>

namespace trainer {
namespace {

constexpr double kMiB = 1 << 20;

struct Row {
  std::string name;
  size_t num_tensors = 0;
  int64_t numel = 0;
  double slice = 0;     // MiB of a rank, as the optimizer has it
  double gathered = 0;  // MiB of the whole, as operators use it
  double reduced = 0;   // MiB of its gradients, as they travel
  bool is_root = false;
};

Row row_of(const UnitPlan& unit, int shards, const ShardingOptions& options) {
  std::vector<torch::Tensor> tensors;
  Row row{.name = unit.name, .num_tensors = unit.parameters.size(), .is_root = unit.is_root};
  for (const auto& [name, tensor] : unit.parameters) {
    tensors.push_back(tensor);
    row.numel += tensor.numel();
  }
  const auto dtype = tensors.front().scalar_type();
  const bool converts = c10::isFloatingType(dtype);
  const auto mib = [&](int64_t numel, torch::ScalarType type) {
    return static_cast<double>(numel) * static_cast<double>(c10::elementSize(type)) / kMiB;
  };
  const UnitLayout layout(tensors, /*rank=*/0, shards);
  row.slice = mib(layout.shard_numel(), dtype);
  row.gathered = mib(layout.numel(), converts ? options.gathered_dtype.value_or(dtype) : dtype);
  row.reduced = mib(layout.numel(), converts ? options.reduced_dtype.value_or(dtype) : dtype);
  return row;
}

/// The sum of the largest `count`.
double largest(std::vector<double> values, int64_t count) {
  std::sort(values.rbegin(), values.rend());
  double sum = 0;
  for (size_t i = 0; i < values.size() && static_cast<int64_t>(i) < count; ++i) {
    sum += values[i];
  }
  return sum;
}

}  // namespace

std::string describe_sharding(const std::vector<UnitPlan>& plan, int replicas, int shards,
                              const ShardingOptions& options) {
  std::vector<Row> rows;
  for (const auto& unit : distinct(plan)) {
    rows.push_back(row_of(unit, shards, options));
  }
  size_t width = 4;
  for (const auto& row : rows) {
    width = std::max(width, row.name.size());
  }
  std::string text = fmt::format("{:<{}}  {:>7}  {:>12}  {:>10}  {:>13}\n", "unit", width,
                                 "tensors", "elements", "slice, MiB", "gathered, MiB");
  Row sum{.name = "sum"};
  double root = 0;
  std::vector<double> gathered, reduced;
  for (const auto& row : rows) {
    sum.num_tensors += row.num_tensors;
    sum.numel += row.numel;
    sum.slice += row.slice;
    sum.gathered += row.gathered;
    sum.reduced += row.reduced;
    reduced.push_back(row.reduced);
    if (row.is_root) {
      root += row.gathered;
    } else {
      gathered.push_back(row.gathered);
    }
  }
  rows.push_back(sum);
  for (const auto& row : rows) {
    text += fmt::format("{:<{}}  {:>7}  {:>12}  {:>10.2f}  {:>13.2f}\n", row.name, width,
                        row.num_tensors, row.numel, row.slice, row.gathered);
  }
  const double at_once =
      options.frees_in_forward ? root + largest(gathered, 1 + options.prefetch) : sum.gathered;
  const double travelling = options.reduces_each_pass ? largest(reduced, 2) : sum.reduced;
  const double total = 4 * sum.slice + at_once + travelling;
  text += fmt::format(
      "\n{} ranks: {} slices, each {} times. A rank needs about {:.1f} MiB:\n"
      "  parameters, gradients and two numbers of the optimizer for each element: 4 x {:.1f}\n"
      "  gathered at a time: {:.1f}, unless the ranks share memory, where all of it is there "
      "once\n"
      "  whole gradients at a time: {:.1f}\n",
      replicas * shards, shards, replicas, total, sum.slice, at_once, travelling);
  return text;
}

}  // namespace trainer
