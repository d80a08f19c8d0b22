#include <trainer/module.h>

#include <typeinfo>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/clip.h>

namespace trainer {

const Progress Module::kNoProgress;

void Module::validation_step(const Batch&, int64_t) {}

void Module::test_step(const Batch&, int64_t) {}

torch::Tensor Module::predict_step(const Batch&, int64_t) {
  throw UsageError(
      fmt::format("{} has no predict_step(). Override it to use predict.", class_name(*this)));
}

void Module::configure_gradient_clipping(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                         std::optional<double> max_norm,
                                         std::optional<double> max_value) {
  if (max_norm) {
    strategy.clip_gradients(optimizer, *max_norm);
  } else if (max_value) {
    auto all = gradients(optimizer);
    clip_by_value(all, *max_value);
  }
}

torch::Tensor Module::optimizer_step(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                     const std::function<torch::Tensor()>& closure) {
  return strategy.optimizer_step(optimizer, closure);
}

std::string class_name(const Module& module) { return type_name(typeid(module)); }

}  // namespace trainer
