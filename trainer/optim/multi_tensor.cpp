#include <trainer/optim/multi_tensor.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

using detail::Algorithm;
using detail::Options;
using detail::ParamState;
using detail::Steps;
using detail::Tensor;
using detail::TensorLists;
using trainer::detail::StateField;
using trainer::detail::StateLayout;

StateLayout layout_of(const Algorithm& algorithm) {
  return {.make_state = [] { return std::make_unique<ParamState>(); },
          .state_fields =
              [&algorithm](torch::optim::OptimizerParamState& base, const Options& options) {
                auto& state = static_cast<ParamState&>(base);
                std::vector<StateField> fields;
                if (algorithm.steps == Steps::kOnDevice) {
                  fields.push_back({.name = "step", .value = &state.step, .scalar = true});
                } else if (algorithm.steps == Steps::kOnHost) {
                  fields.push_back({.name = "step", .value = &state.step_on_host});
                }
                for (size_t k = 0; k < algorithm.state.size(); ++k) {
                  const auto& [name, needed, make] = algorithm.state[k];
                  fields.push_back({.name = name,
                                    .value = &state.tensors[k],
                                    .needed = needed == nullptr || needed(options)});
                }
                return fields;
              },
          .option_fields = algorithm.option_fields};
}

/// Puts the parameters that have a gradient into the lists of their device and dtype.
void collect(const Algorithm& algorithm, const std::vector<Tensor>& parameters,
             std::vector<TensorLists>& lists) {
  for (TensorLists& list : lists) {
    list.gradients.clear();  // A step that threw has left some.
  }
  for (const Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) {
      continue;
    }
    auto list = std::find_if(lists.begin(), lists.end(), [&](const TensorLists& l) {
      return l.dtype == parameter.scalar_type() && l.device == parameter.device();
    });
    if (list == lists.end()) {
      list = lists.insert(lists.end(), TensorLists(parameter.device(), parameter.scalar_type()));
    }
    list->add(algorithm, parameter);
  }
}

void require_own_options(const Algorithm& algorithm, const Options& options) {
  if (!algorithm.takes(options)) {
    throw UsageError(
        fmt::format("{0}: a parameter group has the options of another optimizer.\n"
                    "  Give it trainer::optim::{0}Options, or none for the defaults.",
                    algorithm.name));
  }
}

}  // namespace

MultiTensorOptimizer::MultiTensorOptimizer(const Algorithm& algorithm, const detail::Groups& groups,
                                           std::unique_ptr<Options> defaults)
    : Optimizer(groups, std::move(defaults)), algorithm_(&algorithm) {
  algorithm.check(*defaults_);
  // The groups as given: LibTorch replaces options of another class by the defaults.
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto& group = groups[i];
    if (group.has_options()) {
      require_own_options(algorithm, group.options());
      algorithm.check(group.options());
      if (algorithm.own_options) {
        param_groups_[i].set_options(group.options().clone());
      }
    }
    if (algorithm.check_sizes != nullptr) {
      for (const Tensor& parameter : group.params()) {
        algorithm.check_sizes(parameter.sizes());
      }
    }
  }
}

MultiTensorOptimizer::~MultiTensorOptimizer() = default;

void MultiTensorOptimizer::begin_group(Options&) {}

Tensor MultiTensorOptimizer::step(LossClosure closure) {
  Tensor loss;
  if (closure) {
    const torch::AutoGradMode enable_grad(true);
    loss = closure();
  }
  const torch::NoGradGuard no_grad;
  const Tensor found_inf = std::exchange(found_inf_, {});
  if (found_inf.defined() && !skips_on_device() && found_inf.item<float>() != 0) {
    return loss;
  }
  lists_.resize(param_groups_.size());
  for (size_t i = 0; i < param_groups_.size(); ++i) {
    Options& options = param_groups_[i].options();
    require_own_options(*algorithm_, options);
    collect(*algorithm_, param_groups_[i].params(), lists_[i]);
    begin_group(options);
    for (TensorLists& lists : lists_[i]) {
      if (!lists.gradients.empty()) {
        lists.begin_step(*algorithm_, options, state_, found_inf);
        update(lists, options);
        lists.end_step();
      }
    }
  }
  return loss;
}

bool MultiTensorOptimizer::skips_on_device() const {
  const auto& cleanly = algorithm_->skips_cleanly;
  return algorithm_->fused &&
         std::all_of(param_groups_.begin(), param_groups_.end(), [&](const auto& group) {
           return cleanly == nullptr || cleanly(group.options());
         });
}

void MultiTensorOptimizer::check_groups() const {
  for (const auto& group : param_groups_) {
    require_own_options(*algorithm_, group.options());
  }
}

OptimizerState MultiTensorOptimizer::optimizer_state() const {
  check_groups();
  return trainer::detail::save_state(*this, layout_of(*algorithm_));
}

void MultiTensorOptimizer::load_optimizer_state(const OptimizerState& state) {
  check_groups();
  trainer::detail::load_state(*this, layout_of(*algorithm_), state);
  lists_.clear();
}

}  // namespace trainer::optim
