#pragma once
// Private to this folder: what MultiTensorOptimizer knows about an algorithm, and what the
// algorithm's update() gets.

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <trainer/optim/state_layout.h>

namespace trainer::optim::detail {

using torch::Tensor;
using trainer::detail::OptionField;
using Options = torch::optim::OptimizerOptions;
using Tensors = std::vector<Tensor>;
using Groups = std::vector<torch::optim::OptimizerParamGroup>;

constexpr size_t kMaxStateTensors = 3;

/// A tensor that is kept for each parameter.
struct StateTensor {
  const char* name = nullptr;  ///< As in the state_dict of PyTorch's optimizer.
  /// Whether the algorithm reads it under these options; null: always.
  std::function<bool(const Options&)> needed = nullptr;
  /// Its first value; null: zeros.
  std::function<Tensor(const Tensor& parameter, const Options&)> make = nullptr;
};

/// Where the steps of each parameter are counted. Fused kernels read them from tensors.
enum class Steps { kNotCounted, kOnHost, kOnDevice };

struct Algorithm {
  const char* name = nullptr;  ///< In messages; its options are trainer::optim::<name>Options.
  Steps steps = Steps::kNotCounted;
  /// Whether a fused kernel does the update: it walks through the memory, looks at no strides, and
  /// takes found_inf.
  bool fused = false;
  /// Whether a step that the kernel skips leaves no trace in the state under these options; null:
  /// it never does.
  std::function<bool(const Options&)> skips_cleanly = nullptr;
  /// Whether LibTorch does not know its options: it gives a group the defaults in their place.
  bool own_options = false;
  std::vector<StateTensor> state = {};                  ///< At most kMaxStateTensors.
  std::function<bool(const Options&)> takes = nullptr;  ///< Whether they are of its class.
  std::function<void(const Options&)> check = nullptr;  ///< Throws UsageError for bad values.
  std::function<std::vector<OptionField>(Options&)> option_fields = nullptr;
  /// Throws UsageError for a parameter of sizes that it cannot update; may be null.
  void (*check_sizes)(torch::IntArrayRef) = nullptr;
};

/// The part of an Algorithm that is about its options.
template <class O>
Algorithm algorithm_with(const char* name, void (*check)(const O&),
                         std::vector<OptionField> (*fields)(O&)) {
  Algorithm result;
  result.name = name;
  result.takes = [](const Options& options) { return dynamic_cast<const O*>(&options) != nullptr; };
  result.check = [check](const Options& options) { check(static_cast<const O&>(options)); };
  result.option_fields = [fields](Options& options) { return fields(static_cast<O&>(options)); };
  return result;
}

struct ParamState : public torch::optim::OptimizerCloneableParamState<ParamState> {
  Tensor step;  ///< Steps::kOnDevice: float32 scalar on the parameter's device.
  int64_t step_on_host = 0;
  std::array<Tensor, kMaxStateTensors> tensors;  ///< In the order of Algorithm::state.
};

using States = ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>>;

/// The parameters of one group, device and dtype that have a gradient in this step, in lists of the
/// same order. The lists are kept from step to step for as long as the same parameters have
/// gradients; only the gradients themselves are let go.
struct TensorLists {
  TensorLists(torch::Device on, torch::ScalarType of) : device(on), dtype(of) {}

  torch::Device device;
  torch::ScalarType dtype;
  Tensors parameters;
  Tensors gradients;  ///< With the strides of the parameters; never to be changed.
  std::array<Tensors, kMaxStateTensors> state;  ///< Empty where the options need none.
  std::vector<ParamState*> param_states;
  std::vector<size_t> fresh;        ///< Indices of the parameters with state made in this step.
  Tensors steps;                    ///< Steps::kOnDevice: views of `counters_`, this step counted.
  std::optional<Tensor> found_inf;  ///< Nothing is updated where its value is 1.

  void add(const Algorithm& algorithm, const Tensor& parameter);
  /// Collects the state of the parameters that have a gradient now, makes it where there is none,
  /// and counts the step unless it is skipped. Throws UsageError for a parameter that was converted
  /// since the last one.
  void begin_step(const Algorithm& algorithm, const Options& options, States& states,
                  const Tensor& skip_if);
  void end_step();

 private:
  void link(const Algorithm& algorithm, const Options& options, States& states);
  void check_layouts(const Algorithm& algorithm) const;

  std::array<bool, kMaxStateTensors> needed_ = {};
  Tensor counters_;  ///< [num_parameters] float32: counts the steps of all in one operation.
  Tensor one_;  ///< Added to `counters_`; the number 1 would become a tensor anew in every step.
  bool linked_ = false;  ///< Whether the lists of the state belong to `parameters`.
};

/// Throws UsageError for the first value that is below 0 or NaN.
void check_at_least_0(const char* optimizer,
                      std::initializer_list<std::pair<const char*, double>> values);
/// Throws UsageError for betas that are not at least 0 and below 1.
void check_betas(const char* optimizer, const std::tuple<double, double>& betas);

}  // namespace trainer::optim::detail
