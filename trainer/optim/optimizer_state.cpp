#include <trainer/optim/optimizer_state.h>

#include <memory>
#include <typeindex>
#include <typeinfo>
#include <unordered_map>

#include <c10/util/Type.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/optim/lbfgs.h>
#include <trainer/optim/lbfgs_state.h>
#include <trainer/optim/option_fields.h>
#include <trainer/optim/state_layout.h>

namespace trainer {
namespace {

using detail::StateField;
using detail::StateLayout;
using torch::optim::LBFGS;
using torch::optim::Optimizer;

using StateFields = std::vector<StateField>;

template <class State, class Options>
StateFields adam_state(State& state, const Options& options) {
  return {{"step", &state.step()},
          {"exp_avg", &state.exp_avg()},
          {"exp_avg_sq", &state.exp_avg_sq()},
          {"max_exp_avg_sq", &state.max_exp_avg_sq(), options.amsgrad()}};
}

StateFields fields(torch::optim::AdamParamState& state, const torch::optim::AdamOptions& options) {
  return adam_state(state, options);
}

StateFields fields(torch::optim::AdamWParamState& state,
                   const torch::optim::AdamWOptions& options) {
  return adam_state(state, options);
}

StateFields fields(torch::optim::SGDParamState& state, const torch::optim::SGDOptions&) {
  return {{"momentum_buffer", &state.momentum_buffer()}};
}

StateFields fields(torch::optim::RMSpropParamState& state,
                   const torch::optim::RMSpropOptions& options) {
  return {{"step", &state.step()},
          {"square_avg", &state.square_avg()},
          {"momentum_buffer", &state.momentum_buffer(), options.momentum() > 0},
          {"grad_avg", &state.grad_avg(), options.centered()}};
}

StateFields fields(torch::optim::AdagradParamState& state, const torch::optim::AdagradOptions&) {
  return {{"step", &state.step()}, {"sum", &state.sum()}};
}

template <class State, class Options>
StateLayout layout(bool always_present = false) {
  return {.make_state = []() -> std::unique_ptr<torch::optim::OptimizerParamState> {
            return std::make_unique<State>();
          },
          .state_fields =
              [](torch::optim::OptimizerParamState& state,
                 const torch::optim::OptimizerOptions& options) {
                return fields(static_cast<State&>(state), static_cast<const Options&>(options));
              },
          .option_fields =
              [](torch::optim::OptimizerOptions& options) {
                return detail::option_fields(static_cast<Options&>(options));
              },
          .always_present = always_present};
}

/// The layout of LibTorch's own optimizers; null for other classes, also those derived from them,
/// which may have a state of their own.
const StateLayout* layout_of(const Optimizer& optimizer) {
  using namespace torch::optim;  // NOLINT: optimizers with three classes each
  static const StateLayout kAdam = layout<AdamParamState, AdamOptions>();
  static const StateLayout kAdamW = layout<AdamWParamState, AdamWOptions>();
  static const StateLayout kSGD = layout<SGDParamState, SGDOptions>();
  static const StateLayout kRMSprop = layout<RMSpropParamState, RMSpropOptions>();
  static const StateLayout kAdagrad = layout<AdagradParamState, AdagradOptions>(true);
  static const std::unordered_map<std::type_index, const StateLayout*> kLayouts = {
      {typeid(Adam), &kAdam},
      {typeid(AdamW), &kAdamW},
      {typeid(SGD), &kSGD},
      {typeid(RMSprop), &kRMSprop},
      {typeid(Adagrad), &kAdagrad}};
  const auto found = kLayouts.find(typeid(optimizer));
  return found == kLayouts.end() ? nullptr : found->second;
}

bool is_lbfgs(const Optimizer& optimizer) {
  return typeid(optimizer) == typeid(LBFGS) || typeid(optimizer) == typeid(optim::LBFGS);
}

const StateLayout& require_layout(const Optimizer& optimizer) {
  const StateLayout* found = layout_of(optimizer);
  if (found == nullptr) {
    throw UsageError(
        fmt::format("The state of optimizer {} can be neither saved nor restored: it is not one of "
                    "LibTorch's Adam, AdamW, SGD, RMSprop, Adagrad and LBFGS.\n  Derive its class "
                    "from trainer::StatefulOptimizer too, or use another optimizer.",
                    c10::demangle(typeid(optimizer).name())));
  }
  return *found;
}

}  // namespace

bool has_optimizer_state(const Optimizer& optimizer) {
  return dynamic_cast<const StatefulOptimizer*>(&optimizer) != nullptr || is_lbfgs(optimizer) ||
         layout_of(optimizer) != nullptr;
}

OptimizerState optimizer_state(const Optimizer& optimizer) {
  if (const auto* stateful = dynamic_cast<const StatefulOptimizer*>(&optimizer)) {
    return stateful->optimizer_state();
  }
  if (is_lbfgs(optimizer)) {
    return detail::save_lbfgs(static_cast<const LBFGS&>(optimizer));
  }
  return detail::save_state(optimizer, require_layout(optimizer));
}

bool is_scalar_state(const Optimizer& optimizer, const std::string& name) {
  const auto* stateful = dynamic_cast<const StatefulOptimizer*>(&optimizer);
  return stateful != nullptr ? stateful->is_scalar(name) : name == "step";
}

void load_optimizer_state(Optimizer& optimizer, const OptimizerState& state) {
  if (auto* stateful = dynamic_cast<StatefulOptimizer*>(&optimizer)) {
    stateful->load_optimizer_state(state);
  } else if (is_lbfgs(optimizer)) {
    detail::load_lbfgs(static_cast<LBFGS&>(optimizer), state);
  } else {
    detail::load_state(optimizer, require_layout(optimizer), state);
  }
}

}  // namespace trainer
