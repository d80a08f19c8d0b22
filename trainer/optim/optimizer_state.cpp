#include <trainer/optim/optimizer_state.h>

#include <memory>
#include <typeinfo>

#include <c10/util/Type.h>
#include <fmt/format.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <trainer/core/error.h>
#include <trainer/optim/state_layout.h>

namespace trainer {
namespace {

using detail::OptionField;
using detail::StateField;
using detail::StateLayout;
using torch::optim::Optimizer;

using StateFields = std::vector<StateField>;
using OptionFields = std::vector<OptionField>;

template <class State, class Options>
StateFields adam_state(State& state, const Options& options) {
  return {{"step", &state.step()},
          {"exp_avg", &state.exp_avg()},
          {"exp_avg_sq", &state.exp_avg_sq()},
          {"max_exp_avg_sq", &state.max_exp_avg_sq(), options.amsgrad()}};
}

template <class Options>
OptionFields adam_options(Options& options) {
  return {{"lr", &options.lr()},
          {"betas", &options.betas()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()},
          {"amsgrad", &options.amsgrad()}};
}

StateFields fields(torch::optim::AdamParamState& state, const torch::optim::AdamOptions& options) {
  return adam_state(state, options);
}

OptionFields fields(torch::optim::AdamOptions& options) { return adam_options(options); }

StateFields fields(torch::optim::AdamWParamState& state,
                   const torch::optim::AdamWOptions& options) {
  return adam_state(state, options);
}

OptionFields fields(torch::optim::AdamWOptions& options) { return adam_options(options); }

StateFields fields(torch::optim::SGDParamState& state, const torch::optim::SGDOptions&) {
  return {{"momentum_buffer", &state.momentum_buffer()}};
}

OptionFields fields(torch::optim::SGDOptions& options) {
  return {{"lr", &options.lr()},
          {"momentum", &options.momentum()},
          {"dampening", &options.dampening()},
          {"weight_decay", &options.weight_decay()},
          {"nesterov", &options.nesterov()}};
}

StateFields fields(torch::optim::RMSpropParamState& state,
                   const torch::optim::RMSpropOptions& options) {
  return {{"step", &state.step()},
          {"square_avg", &state.square_avg()},
          {"momentum_buffer", &state.momentum_buffer(), options.momentum() > 0},
          {"grad_avg", &state.grad_avg(), options.centered()}};
}

OptionFields fields(torch::optim::RMSpropOptions& options) {
  return {{"lr", &options.lr()},
          {"alpha", &options.alpha()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()},
          {"momentum", &options.momentum()},
          {"centered", &options.centered()}};
}

StateFields fields(torch::optim::AdagradParamState& state, const torch::optim::AdagradOptions&) {
  return {{"step", &state.step()}, {"sum", &state.sum()}};
}

OptionFields fields(torch::optim::AdagradOptions& options) {
  return {{"lr", &options.lr()},
          {"lr_decay", &options.lr_decay()},
          {"weight_decay", &options.weight_decay()},
          {"initial_accumulator_value", &options.initial_accumulator_value()},
          {"eps", &options.eps()}};
}

template <class State, class Options>
constexpr StateLayout layout(bool always_present = false) {
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
                return fields(static_cast<Options&>(options));
              },
          .always_present = always_present};
}

/// The layout of LibTorch's own optimizers; null for other classes.
const StateLayout* layout_of(const Optimizer& optimizer) {
  using namespace torch::optim;  // NOLINT: five optimizers with three classes each
  static constexpr StateLayout kAdam = layout<AdamParamState, AdamOptions>();
  static constexpr StateLayout kAdamW = layout<AdamWParamState, AdamWOptions>();
  static constexpr StateLayout kSGD = layout<SGDParamState, SGDOptions>();
  static constexpr StateLayout kRMSprop = layout<RMSpropParamState, RMSpropOptions>();
  static constexpr StateLayout kAdagrad = layout<AdagradParamState, AdagradOptions>(true);
  if (dynamic_cast<const Adam*>(&optimizer) != nullptr) {
    return &kAdam;
  }
  if (dynamic_cast<const AdamW*>(&optimizer) != nullptr) {
    return &kAdamW;
  }
  if (dynamic_cast<const SGD*>(&optimizer) != nullptr) {
    return &kSGD;
  }
  if (dynamic_cast<const RMSprop*>(&optimizer) != nullptr) {
    return &kRMSprop;
  }
  return dynamic_cast<const Adagrad*>(&optimizer) != nullptr ? &kAdagrad : nullptr;
}

const StateLayout& require_layout(const Optimizer& optimizer) {
  const StateLayout* found = layout_of(optimizer);
  if (found == nullptr) {
    throw UsageError(
        fmt::format("The state of optimizer {} can be neither saved nor restored: it is not one of "
                    "LibTorch's Adam, "
                    "AdamW, SGD, RMSprop and Adagrad.\n  Derive its class from "
                    "trainer::StatefulOptimizer too, or use "
                    "another optimizer.",
                    c10::demangle(typeid(optimizer).name())));
  }
  return *found;
}

}  // namespace

bool has_optimizer_state(const Optimizer& optimizer) {
  return dynamic_cast<const StatefulOptimizer*>(&optimizer) != nullptr ||
         layout_of(optimizer) != nullptr;
}

OptimizerState optimizer_state(const Optimizer& optimizer) {
  if (const auto* stateful = dynamic_cast<const StatefulOptimizer*>(&optimizer)) {
    return stateful->optimizer_state();
  }
  return detail::save_state(optimizer, require_layout(optimizer));
}

void load_optimizer_state(Optimizer& optimizer, const OptimizerState& state) {
  if (auto* stateful = dynamic_cast<StatefulOptimizer*>(&optimizer)) {
    stateful->load_optimizer_state(state);
    return;
  }
  detail::load_state(optimizer, require_layout(optimizer), state);
}

}  // namespace trainer
