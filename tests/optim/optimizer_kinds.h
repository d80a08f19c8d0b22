#pragma once
// The optimizers that many tests run over, on five small parameters in two groups.

#include <cstddef>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/optimizer.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/optim/adagrad.h>
#include <trainer/optim/adam.h>
#include <trainer/optim/adamw.h>
#include <trainer/optim/lamb.h>
#include <trainer/optim/lion.h>
#include <trainer/optim/muon.h>
#include <trainer/optim/optimizer_state.h>
#include <trainer/optim/rmsprop.h>
#include <trainer/optim/schedule_free_adamw.h>
#include <trainer/optim/sgd.h>

namespace trainer::test {

using Parameters = std::vector<torch::Tensor>;
using Groups = std::vector<torch::optim::OptimizerParamGroup>;

/// An optimizer with options.
struct Kind {
  std::string name;
  std::string optimizer;  // as messages call it
  bool matrices_only;
  std::function<std::unique_ptr<torch::optim::Optimizer>(const Groups&)> from_groups;
  /// With the learning rate times `factor`.
  std::function<std::unique_ptr<torch::optim::OptimizerOptions>(double factor)> options;

  /// Two groups, the second with half the learning rate.
  std::unique_ptr<torch::optim::Optimizer> make(const Parameters& p) const {
    Groups groups;
    groups.emplace_back(Parameters{p[0], p[1]}, options(1));
    groups.emplace_back(Parameters{p[2], p[3], p[4]}, options(0.5));
    return from_groups(groups);
  }

  /// The fifth is frozen.
  Parameters parameters(double value = 0.5) const {
    const auto full = [&](std::vector<int64_t> shape, torch::ScalarType dtype = torch::kFloat32) {
      return torch::full(shape, value, torch::dtype(dtype).requires_grad(true));
    };
    const std::vector<int64_t> five = matrices_only ? std::vector<int64_t>{5, 1} : std::vector{5L};
    const std::vector<int64_t> one = matrices_only ? std::vector{1L, 1L} : std::vector<int64_t>{};
    return {full({3, 4}), full(five), full({2, 2}, torch::kBFloat16), full(one),
            torch::full({6, 1}, value)};
  }
};

inline void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

template <class O, class Options>
Kind kind(std::string name, std::string optimizer, const Options& options) {
  return {std::move(name), std::move(optimizer), std::is_same_v<O, optim::Muon>,
          [options](const Groups& groups) { return std::make_unique<O>(groups, options); },
          [options](double factor) {
            auto result = std::make_unique<Options>(options);
            result->lr(options.lr() * factor);
            return result;
          }};
}

/// Every MultiTensorOptimizer, with the options that change what it keeps.
inline std::vector<Kind> our_kinds() {
  using namespace optim;  // NOLINT
  using SF = ScheduleFreeAdamWOptions;
  return {
      kind<AdamW>("AdamW", "AdamW", AdamWOptions(0.05).betas({0.8, 0.9})),
      kind<AdamW>("AdamWAmsgrad", "AdamW", AdamWOptions(0.05).amsgrad(true)),
      kind<Adam>("Adam", "Adam", AdamOptions(0.05).weight_decay(0.1)),
      kind<SGD>("SGD", "SGD", SGDOptions(0.05)),
      kind<SGD>("SGDDampening", "SGD", SGDOptions(0.05).momentum(0.9).dampening(0.5)),
      kind<SGD>("SGDNesterov", "SGD", SGDOptions(0.05).momentum(0.9).nesterov(true)),
      kind<Adagrad>("Adagrad", "Adagrad",
                    AdagradOptions(0.05).lr_decay(0.01).initial_accumulator_value(0.2)),
      kind<RMSprop>("RMSprop", "RMSprop", RMSpropOptions(0.05)),
      kind<RMSprop>("RMSpropCentered", "RMSprop",
                    RMSpropOptions(0.05).momentum(0.5).centered(true)),
      kind<LAMB>("LAMB", "LAMB", LAMBOptions(0.05)),
      kind<Lion>("Lion", "Lion", LionOptions(0.05).weight_decay(0.1)),
      kind<Muon>("Muon", "Muon", MuonOptions(0.05)),
      kind<ScheduleFreeAdamW>("ScheduleFreeAdamW", "ScheduleFreeAdamW",
                              SF(0.05).warmup_steps(4).weight_decay(0.1)),
  };
}

/// Random gradients, the same for the same step. The first and third parameter always get one, the
/// second from step 3 on, the fourth now and then, the frozen fifth never.
inline void set_gradients(Parameters& parameters, int step) {
  torch::manual_seed(step);
  for (int i = 0; i < 4; ++i) {
    const auto gradient = torch::randn(parameters[i].sizes()).to(parameters[i].scalar_type());
    const bool defined = i == 0 || i == 2 || (i == 1 ? step >= 3 : step % 3 == 0);
    parameters[i].mutable_grad() = defined ? gradient : torch::Tensor();
  }
}

inline void train(torch::optim::Optimizer& optimizer, Parameters& parameters, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    set_gradients(parameters, step);
    optimizer.step();
  }
}

/// As a checkpoint keeps it: tensors of its own, the rest through text.
inline OptimizerState stored(const OptimizerState& state) {
  OptimizerState result;
  for (const auto& tensors : state.parameters) {
    auto& copy = result.parameters.emplace_back();
    for (const auto& [name, tensor] : tensors) {
      copy[name] = tensor.clone();
    }
  }
  result.groups = nlohmann::json::parse(state.groups.dump());
  return result;
}

inline void copy_values(const Parameters& from, const Parameters& to) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < from.size(); ++i) {
    to[i].copy_(from[i]);
  }
}

inline bool equal(const Parameters& a, const Parameters& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!torch::equal(a[i], b[i])) {
      return false;
    }
  }
  return a.size() == b.size();
}

inline bool equal(const OptimizerState& a, const OptimizerState& b) {
  if (a.groups != b.groups || a.parameters.size() != b.parameters.size()) {
    return false;
  }
  for (size_t i = 0; i < a.parameters.size(); ++i) {
    if (a.parameters[i].size() != b.parameters[i].size()) {
      return false;
    }
    for (const auto& [name, tensor] : a.parameters[i]) {
      if (!b.parameters[i].contains(name) || !torch::equal(tensor, b.parameters[i].at(name))) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace trainer::test
