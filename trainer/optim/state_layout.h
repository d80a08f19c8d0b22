#pragma once
// Private to this folder: what an optimizer that keeps its state in
// torch::optim::Optimizer::state() says about its fields, so that saving and restoring is written
// once for all of them.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/optimizer_state.h>

namespace trainer::detail {

/// A field of a parameter's state: a number, or a tensor like the parameter or with one float32
/// element.
struct StateField {
  const char* name = nullptr;
  std::variant<torch::Tensor*, int64_t*> value = static_cast<torch::Tensor*>(nullptr);
  bool needed = true;   ///< Whether the optimizer reads it under its options.
  bool scalar = false;  ///< Whether the tensor has one element.
};

/// An option of a parameter group.
struct OptionField {
  const char* name = nullptr;
  std::variant<double*, bool*, int64_t*, std::string*, std::tuple<double, double>*,
               std::tuple<double, double, double>*, std::optional<int64_t>*,
               std::optional<std::string>*>
      value = static_cast<double*>(nullptr);
};

struct StateLayout {
  std::function<std::unique_ptr<torch::optim::OptimizerParamState>()> make_state = nullptr;
  std::function<std::vector<StateField>(torch::optim::OptimizerParamState&,
                                        const torch::optim::OptimizerOptions&)>
      state_fields = nullptr;
  std::function<std::vector<OptionField>(torch::optim::OptimizerOptions&)> option_fields = nullptr;
  /// Whether the optimizer makes the state of all parameters in its constructor and relies on it.
  bool always_present = false;
};

OptimizerState save_state(const torch::optim::Optimizer& optimizer, const StateLayout& layout);

/// Throws CheckpointError, with nothing changed, when the state does not fit.
void load_state(torch::optim::Optimizer& optimizer, const StateLayout& layout,
                const OptimizerState& state);

/// The options of each group.
nlohmann::json save_options(const torch::optim::Optimizer& optimizer, const StateLayout& layout);

/// The options of each group with those of `state` put in. Throws CheckpointError when it has other
/// groups, or another number of parameters, than the optimizer.
std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> read_options(
    const torch::optim::Optimizer& optimizer, const StateLayout& layout,
    const OptimizerState& state);

}  // namespace trainer::detail
