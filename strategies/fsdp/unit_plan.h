#pragma once
// Which parameters of a module are gathered and freed together.

#include <cstdint>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <strategies/fsdp/unit_gradients.h>

namespace trainer {

/// Parameters that become a unit, in order.
struct UnitPlan {
  std::string name;  ///< The dotted name of the module, "root" for what is left.
  UnitGradients::Parameters parameters;
  bool is_root = false;  ///< Stays gathered from its first use to the end of the backward pass.
};

/// Each child of a ModuleList or Sequential is a unit, the outermost ones count; what is left is
/// the root unit.
std::vector<UnitPlan> default_units(const torch::nn::Module& module);

/// Each module whose dotted name fits one of `patterns` is a unit, the outermost ones count; `*` in
/// a pattern stands for any text. Throws ConfigError for a pattern that no module
/// with parameters fits.
std::vector<UnitPlan> units_by_name(const torch::nn::Module& module,
                                    const std::vector<std::string>& patterns);

/// The smallest modules that have `min_numel` elements or more, apart from those that are units
/// within them.
std::vector<UnitPlan> units_by_size(const torch::nn::Module& module, int64_t min_numel);

/// A parameter belongs to where it comes first, and a unit has one dtype; units without parameters
/// are left out.
std::vector<UnitPlan> distinct(const std::vector<UnitPlan>& plan);

}  // namespace trainer
