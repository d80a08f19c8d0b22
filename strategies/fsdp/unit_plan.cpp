#include <strategies/fsdp/unit_plan.h>

#include <algorithm>
#include <functional>
#include <unordered_set>

#include <fmt/format.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/glob.h>

namespace trainer {
namespace {

using Parameters = UnitGradients::Parameters;

UnitPlan plan_of(const torch::nn::Module& module, const std::string& name) {
  UnitPlan plan{name, {}};
  for (const auto& item : module.named_parameters()) {
    plan.parameters.emplace_back(name.empty() ? item.key() : name + "." + item.key(), item.value());
  }
  return plan;
}

/// Chooses units among a module's children, and so on within those that are none. `is_unit` gets a
/// child, its dotted name and the module it is in.
using Choice = std::function<bool(const torch::nn::Module& child, const std::string& name,
                                  const torch::nn::Module& parent)>;

void choose(const torch::nn::Module& module, const std::string& prefix, const Choice& is_unit,
            std::vector<UnitPlan>& units, UnitPlan& root) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    root.parameters.emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& child : module.named_children()) {
    const auto name = prefix + child.key();
    if (is_unit(*child.value(), name, module)) {
      units.push_back(plan_of(*child.value(), name));
    } else {
      choose(*child.value(), name + ".", is_unit, units, root);
    }
  }
}

std::vector<UnitPlan> chosen_units(const torch::nn::Module& module, const Choice& is_unit) {
  std::vector<UnitPlan> units;
  UnitPlan root{"root", {}, /*is_root=*/true};
  choose(module, "", is_unit, units, root);
  units.insert(units.begin(), std::move(root));
  return units;
}

int64_t numel_of(const Parameters& parameters) {
  int64_t sum = 0;
  for (const auto& [name, tensor] : parameters) {
    sum += tensor.numel();
  }
  return sum;
}

/// What of the module is in no unit.
Parameters choose_by_size(const torch::nn::Module& module, const std::string& name, int64_t min,
                          std::vector<UnitPlan>& units) {
  UnitPlan left{name, {}};
  const std::string prefix = name.empty() ? "" : name + ".";
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    left.parameters.emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& child : module.named_children()) {
    for (auto& parameter : choose_by_size(*child.value(), prefix + child.key(), min, units)) {
      left.parameters.push_back(std::move(parameter));
    }
  }
  if (!name.empty() && numel_of(left.parameters) >= min) {
    units.push_back(std::move(left));
    return {};
  }
  return std::move(left.parameters);
}

}  // namespace

std::vector<UnitPlan> default_units(const torch::nn::Module& module) {
  return chosen_units(module, [](const auto&, const auto&, const torch::nn::Module& parent) {
    return parent.as<torch::nn::ModuleList>() != nullptr ||
           parent.as<torch::nn::Sequential>() != nullptr;
  });
}

std::vector<UnitPlan> units_by_name(const torch::nn::Module& module,
                                    const std::vector<std::string>& patterns) {
  std::unordered_set<std::string> used;
  auto units = chosen_units(module, [&](const torch::nn::Module& child, const std::string& name,
                                        const torch::nn::Module&) {
    bool is_unit = false;
    for (const auto& pattern : patterns) {
      if (matches_glob(pattern, name) && !child.parameters().empty()) {
        used.insert(pattern);
        is_unit = true;
      }
    }
    return is_unit;
  });
  for (const auto& pattern : patterns) {
    if (!used.contains(pattern)) {
      throw ConfigError(fmt::format(
          "FSDP: no module with parameters fits the unit pattern '{}', or all that do are in other "
          "units. `trainer describe-sharding` shows the units; names are those of "
          "named_modules().",
          pattern));
    }
  }
  return units;
}

std::vector<UnitPlan> units_by_size(const torch::nn::Module& module, int64_t min_numel) {
  std::vector<UnitPlan> units;
  UnitPlan root{"root", {}, /*is_root=*/true};
  root.parameters = choose_by_size(module, "", min_numel, units);
  units.insert(units.begin(), std::move(root));
  return units;
}

std::vector<UnitPlan> distinct(const std::vector<UnitPlan>& plan) {
  std::unordered_set<const void*> known;
  std::vector<UnitPlan> units;
  for (const auto& unit : plan) {
    std::vector<UnitPlan> by_dtype;
    for (const auto& parameter : unit.parameters) {
      if (!known.insert(parameter.second.unsafeGetTensorImpl()).second) {
        continue;
      }
      const auto dtype = parameter.second.scalar_type();
      auto same = std::find_if(by_dtype.begin(), by_dtype.end(), [&](const UnitPlan& other) {
        return other.parameters.front().second.scalar_type() == dtype;
      });
      if (same == by_dtype.end()) {
        by_dtype.push_back(
            {by_dtype.empty() ? unit.name : fmt::format("{} ({})", unit.name, c10::toString(dtype)),
             {},
             unit.is_root});
        same = std::prev(by_dtype.end());
      }
      same->parameters.push_back(parameter);
    }
    units.insert(units.end(), by_dtype.begin(), by_dtype.end());
  }
  return units;
}

}  // namespace trainer
