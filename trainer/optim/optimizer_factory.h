#pragma once
// Optimizers by name, and parameter groups by the names of parameters:
//
//   optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3, no_decay: ".*bias|.*norm.*"}}
//
// or in configure_optimizers():
//
//   return std::make_unique<optim::AdamW>(optim::parameter_groups(
//       *this, optim::AdamWOptions(1e-3), {.no_decay = ".*bias|.*norm.*"}));

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <trainer/core/config.h>

namespace trainer {

/// Makes an optimizer for a module. Derive from it, with a nested struct Init and
/// TRAINER_REGISTER_CLASS, to have an optimizer of your own chosen by name.
class OptimizerFactory {
 public:
  using Base = OptimizerFactory;
  static constexpr const char* kKind = "optimizer";
  virtual ~OptimizerFactory() = default;
  /// For the parameters that require a gradient now. Throws ConfigError or UsageError.
  virtual std::unique_ptr<torch::optim::Optimizer> create(
      const torch::nn::Module& module) const = 0;
};

namespace optim {

/// A rule of config::field(): a regular expression (ECMAScript).
struct Pattern {
  std::string text() const { return "regular expression for whole names"; }
  std::string violation(const std::string& pattern) const;
};

/// Options of its own for the parameters whose name, as in named_parameters(), matches as a whole.
struct GroupRule {
  std::string match = "";
  std::optional<double> lr = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;

  static constexpr auto fields() {
    using config::field, config::at_least, config::required;
    return std::tuple{
        field<&GroupRule::match>("Which parameters, by name: 'head\\..*'.", required(), Pattern{}),
        field<&GroupRule::lr>("Their learning rate.", at_least(0.0)),
        field<&GroupRule::weight_decay>("Their weight decay.", at_least(0.0))};
  }
};

struct GroupRules {
  std::string no_decay = "";  ///< Parameters with weight decay 0, whatever their group; "": none.
  std::vector<GroupRule> groups = {};  ///< The first one that matches holds.
};

namespace detail {
struct ParameterGroup {
  const GroupRule* rule;  ///< Null for parameters that none matches.
  bool decays;
  std::vector<torch::Tensor> parameters;
};
std::vector<ParameterGroup> split_parameters(const torch::nn::Module& module,
                                             const GroupRules& rules);
}  // namespace detail

/// The parameters of `module` that require a gradient in groups, each with `options` changed by its
/// rule: the groups of the rules in their order, then the others. A group with parameters that
/// no_decay matches becomes two, those first. Pass the result alone, without defaults, to the
/// optimizer. A parameter with two names goes by the first one.
/// Throws ConfigError for a pattern that is no regular expression, one that matches no parameter,
/// and a rule whose parameters all belong to earlier ones; UsageError when no parameter requires a
/// gradient.
template <class Options>
std::vector<torch::optim::OptimizerParamGroup> parameter_groups(const torch::nn::Module& module,
                                                                const Options& options,
                                                                const GroupRules& rules = {}) {
  std::vector<torch::optim::OptimizerParamGroup> result;
  for (auto& group : detail::split_parameters(module, rules)) {
    auto own = std::make_unique<Options>(options);
    if (group.rule != nullptr) {
      own->lr(group.rule->lr.value_or(options.lr()));
      own->weight_decay(group.rule->weight_decay.value_or(options.weight_decay()));
    }
    if (!group.decays) {
      own->weight_decay(0);
    }
    result.emplace_back(std::move(group.parameters), std::move(own));
  }
  return result;
}

}  // namespace optim
}  // namespace trainer
