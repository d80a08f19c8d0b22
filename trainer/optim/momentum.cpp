#include <trainer/optim/momentum.h>

#include <tuple>
#include <typeinfo>

#include <c10/util/Type.h>
#include <fmt/format.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

using torch::optim::AdamOptions;
using torch::optim::AdamWOptions;
using torch::optim::OptimizerOptions;
using torch::optim::RMSpropOptions;
using torch::optim::SGDOptions;

template <class T>
bool is(const OptimizerOptions& options) {
  return dynamic_cast<const T*>(&options) != nullptr;
}

template <class T>
bool set_if(OptimizerOptions& options, double momentum) {
  auto* const found = dynamic_cast<T*>(&options);
  if (found == nullptr) {
    return false;
  }
  if constexpr (requires { found->set_momentum(momentum); }) {
    found->set_momentum(momentum);
  } else if constexpr (requires { found->betas(); }) {
    found->betas({momentum, std::get<1>(found->betas())});
  } else {
    found->momentum(momentum);
  }
  return true;
}

}  // namespace

bool has_momentum(const OptimizerOptions& options) {
  return is<MomentumOptions>(options) || is<SGDOptions>(options) || is<RMSpropOptions>(options) ||
         is<AdamOptions>(options) || is<AdamWOptions>(options);
}

void set_momentum(OptimizerOptions& options, double momentum) {
  const bool done =
      set_if<MomentumOptions>(options, momentum) || set_if<SGDOptions>(options, momentum) ||
      set_if<RMSpropOptions>(options, momentum) || set_if<AdamOptions>(options, momentum) ||
      set_if<AdamWOptions>(options, momentum);
  if (!done) {
    throw UsageError(fmt::format(
        "{} has no momentum that a schedule could set.\n  Choose another optimizer, or derive its "
        "options from trainer::MomentumOptions too.",
        c10::demangle(typeid(options).name())));
  }
}

}  // namespace trainer
