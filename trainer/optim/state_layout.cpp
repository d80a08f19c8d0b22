#include <trainer/optim/state_layout.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer::detail {
namespace {

using Optimizer = torch::optim::Optimizer;
using Options = torch::optim::OptimizerOptions;
using Tensors = std::map<std::string, torch::Tensor>;

/// Calls `visit(parameter, group index, parameter index)`; parameters are numbered over all groups.
template <class Visit>
void for_each_parameter(const Optimizer& optimizer, Visit visit) {
  size_t index = 0;
  const auto& groups = optimizer.param_groups();
  for (size_t group = 0; group < groups.size(); ++group) {
    for (const torch::Tensor& parameter : groups[group].params()) {
      visit(parameter, group, index++);
    }
  }
}

std::string dims(const torch::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

void check_counts(const Optimizer& optimizer, const OptimizerState& state) {
  const auto& groups = optimizer.param_groups();
  size_t num_parameters = 0;
  for (const auto& group : groups) {
    num_parameters += group.params().size();
  }
  if (!state.groups.is_array() || state.groups.size() != groups.size() ||
      state.parameters.size() != num_parameters) {
    throw CheckpointError(
        fmt::format("Optimizer state: found {} parameters in {} groups, expected {} in {}.\n"
                    "  Restore it with the module and the parameter groups it was saved with.",
                    state.parameters.size(), state.groups.is_array() ? state.groups.size() : 0,
                    num_parameters, groups.size()));
  }
}

template <class T>
nlohmann::json to_json(const T& value) {
  return value;
}
template <class T>
nlohmann::json to_json(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

template <class T>
void from_json(const nlohmann::json& json, T& value) {
  json.get_to(value);
}
template <class T>
void from_json(const nlohmann::json& json, std::optional<T>& value) {
  value = json.is_null() ? std::nullopt : std::optional<T>(json.get<T>());
}

/// The options of one group with those of the checkpoint put in.
std::unique_ptr<Options> read_group(const Options& present, const StateLayout& layout,
                                    const nlohmann::json& saved, size_t group) {
  auto options = present.clone();
  if (!saved.contains("lr")) {
    throw CheckpointError(
        fmt::format("Optimizer state: group {} is {}, expected an object with lr.\n"
                    "  The checkpoint is damaged.",
                    group, saved.dump()));
  }
  for (const OptionField& field : layout.option_fields(*options)) {
    if (saved.contains(field.name)) {
      try {
        std::visit([&](auto* value) { from_json(saved[field.name], *value); }, field.value);
      } catch (const nlohmann::json::exception&) {
        nlohmann::json expected;
        std::visit([&](const auto* value) { expected = to_json(*value); }, field.value);
        throw CheckpointError(
            fmt::format("Optimizer state: {} of group {} is {}, expected a value such as {}.\n"
                        "  The checkpoint is damaged, or was written with another optimizer.",
                        field.name, group, saved[field.name].dump(), expected.dump()));
      }
    }
  }
  return options;
}

std::string names(const std::vector<StateField>& fields) {
  std::vector<std::string> result;
  for (const StateField& field : fields) {
    result.emplace_back(field.needed ? field.name : fmt::format("{} (optional)", field.name));
  }
  return fmt::format("{}", fmt::join(result, ", "));
}

std::string names(const Tensors& tensors) {
  std::vector<std::string> result;
  for (const auto& [name, tensor] : tensors) {
    result.push_back(name);
  }
  return result.empty() ? "nothing" : fmt::format("{}", fmt::join(result, ", "));
}

void check_names(const Tensors& saved, const std::vector<StateField>& fields,
                 const std::string& where) {
  size_t known = 0;
  bool complete = true;
  for (const StateField& field : fields) {
    const bool found = saved.contains(field.name);
    known += found ? 1 : 0;
    complete = complete && (found || !field.needed);
  }
  if (!complete || known != saved.size()) {
    throw CheckpointError(
        fmt::format("Optimizer state: found {} for {}, expected {}.\n"
                    "  Restore it with the optimizer it was saved with.",
                    names(saved), where, names(fields)));
  }
}

void check_shapes(const Tensors& saved, const std::vector<StateField>& fields,
                  const torch::Tensor& parameter, const std::string& where) {
  for (const StateField& field : fields) {
    const auto found = saved.find(field.name);
    if (found == saved.end()) {
      continue;
    }
    const torch::Tensor& tensor = found->second;
    const bool scalar = field.scalar || std::holds_alternative<int64_t*>(field.value);
    const torch::IntArrayRef expected = scalar ? torch::IntArrayRef() : parameter.sizes();
    if (!tensor.defined() || tensor.sizes() != expected) {
      throw CheckpointError(
          fmt::format("Optimizer state: {} of {} is {}, expected [{}].\n"
                      "  Restore it with the module it was saved with.",
                      field.name, where, tensor.defined() ? dims(tensor) : "undefined",
                      fmt::join(expected, ", ")));
    }
  }
}

void copy_tensors(const Tensors& saved, const std::vector<StateField>& fields,
                  const torch::Tensor& parameter) {
  for (const StateField& field : fields) {
    const auto found = saved.find(field.name);
    if (auto* const* number = std::get_if<int64_t*>(&field.value)) {
      if (found != saved.end()) {
        **number = found->second.item<int64_t>();
      }
      continue;
    }
    torch::Tensor& own = *std::get<torch::Tensor*>(field.value);
    if (found == saved.end()) {
      own.reset();  // of what the optimizer did before
      continue;
    }
    if (!own.defined()) {
      own = field.scalar
                ? torch::empty({}, parameter.options().dtype(torch::kFloat32).requires_grad(false))
                : torch::empty_like(parameter);
    }
    own.copy_(found->second);
  }
}

}  // namespace

nlohmann::json save_options(const Optimizer& optimizer, const StateLayout& layout) {
  nlohmann::json result = nlohmann::json::array();
  for (const auto& group : optimizer.param_groups()) {
    const auto options = group.options().clone();
    nlohmann::json saved = nlohmann::json::object();
    for (const OptionField& field : layout.option_fields(*options)) {
      std::visit([&](const auto* value) { saved[field.name] = to_json(*value); }, field.value);
    }
    result.push_back(std::move(saved));
  }
  return result;
}

std::vector<std::unique_ptr<Options>> read_options(const Optimizer& optimizer,
                                                   const StateLayout& layout,
                                                   const OptimizerState& state) {
  check_counts(optimizer, state);
  std::vector<std::unique_ptr<Options>> result;
  for (size_t i = 0; i < state.groups.size(); ++i) {
    result.push_back(read_group(optimizer.param_groups()[i].options(), layout, state.groups[i], i));
  }
  return result;
}

OptimizerState save_state(const Optimizer& optimizer, const StateLayout& layout) {
  OptimizerState result{.parameters = {}, .groups = save_options(optimizer, layout)};
  for_each_parameter(optimizer, [&](const torch::Tensor& parameter, size_t group, size_t) {
    Tensors& saved = result.parameters.emplace_back();
    const auto state = optimizer.state().find(parameter.unsafeGetTensorImpl());
    if (state == optimizer.state().end()) {
      return;
    }
    for (const StateField& field :
         layout.state_fields(*state->second, optimizer.param_groups()[group].options())) {
      if (auto* const* number = std::get_if<int64_t*>(&field.value)) {
        saved[field.name] = torch::tensor(**number, torch::kInt64);
      } else if (const torch::Tensor& tensor = *std::get<torch::Tensor*>(field.value);
                 tensor.defined()) {
        saved[field.name] = tensor;
      }
    }
  });
  return result;
}

void load_state(Optimizer& optimizer, const StateLayout& layout, const OptimizerState& state) {
  const torch::NoGradGuard no_grad;
  auto options = read_options(optimizer, layout, state);
  auto& groups = optimizer.param_groups();
  const auto blank = layout.make_state();
  for_each_parameter(optimizer, [&](const torch::Tensor& parameter, size_t group, size_t index) {
    const Tensors& saved = state.parameters[index];
    if (!saved.empty() || layout.always_present) {
      const auto fields = layout.state_fields(*blank, *options[group]);
      const std::string where = fmt::format("parameter {} (group {})", index, group);
      check_names(saved, fields, where);
      check_shapes(saved, fields, parameter, where);
    }
  });

  for (size_t i = 0; i < groups.size(); ++i) {
    groups[i].set_options(std::move(options[i]));
  }
  for_each_parameter(optimizer, [&](const torch::Tensor& parameter, size_t group, size_t index) {
    const Tensors& saved = state.parameters[index];
    if (saved.empty()) {
      optimizer.state().erase(parameter.unsafeGetTensorImpl());
      return;
    }
    auto& own = optimizer.state()[parameter.unsafeGetTensorImpl()];
    if (!own) {
      own = layout.make_state();
    }
    copy_tensors(saved, layout.state_fields(*own, groups[group].options()), parameter);
  });
}

}  // namespace trainer::detail
