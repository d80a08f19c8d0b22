#include <trainer/module.h>

#include <algorithm>
#include <typeinfo>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/clip.h>

namespace trainer {

const Progress Module::kNoProgress;

void Module::validation_step(const Batch&, int64_t) {}

void Module::test_step(const Batch&, int64_t) {
  throw UsageError(
      fmt::format("{} has no test_step(). Override it to use test.", class_name(*this)));
}

torch::Tensor Module::predict_step(const Batch&, int64_t) {
  throw UsageError(
      fmt::format("{} has no predict_step(). Override it to use predict.", class_name(*this)));
}

OptimizerConfig Module::configure_optimizers() {
  throw UsageError(fmt::format(
      "{} has no configure_optimizers(). Override it, or choose in the configuration: optimizer: "
      "{{class_path: AdamW, init_args: {{lr: 1.0e-3}}}}.",
      class_name(*this)));
}

std::vector<std::shared_ptr<Callback>> Module::configure_callbacks() { return {}; }

void Module::optimizer_zero_grad(torch::optim::Optimizer& optimizer, Strategy& strategy) {
  strategy.zero_gradients(optimizer);
}

void Module::configure_gradient_clipping(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                         std::optional<double> max_norm,
                                         std::optional<double> max_value) {
  clip_gradients(optimizer, strategy, max_norm, max_value);
}

void Module::lr_scheduler_step(LRScheduler& scheduler, std::optional<double> metric) {
  if (metric) {
    scheduler.step(*metric);
  } else {
    scheduler.step();
  }
}

void Module::clip_gradients(torch::optim::Optimizer& optimizer, Strategy& strategy,
                            std::optional<double> max_norm, std::optional<double> max_value) {
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

void Module::freeze() {
  for (auto& parameter : parameters()) {
    parameter.requires_grad_(false);
  }
  eval();
}

void Module::unfreeze() {
  for (auto& parameter : parameters()) {
    parameter.requires_grad_(true);
  }
  train();
}

void Module::log(std::string_view name, metrics::Metric& metric, const LogOptions& options) {
  if (context_.metrics == nullptr) {
    return;
  }
  const auto is_metric = [&](const auto& one) { return one.second == &metric; };
  if (!context_.metrics->knows(metric)) {
    const auto all = registered_metrics(*this);
    if (std::none_of(all.begin(), all.end(), is_metric)) {
      throw UsageError(
          fmt::format("log('{}'): the metric is not registered in {}, so that checkpoints would "
                      "lack its state. Make it with register_module().",
                      name, class_name(*this)));
    }
  }
  context_.metrics->log(name, metric, options);
}

MetricCollector::NamedMetrics registered_metrics(const Module& module) {
  MetricCollector::NamedMetrics all;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    if (auto* metric = dynamic_cast<metrics::Metric*>(item.value().get())) {
      all.emplace(item.key(), metric);
    }
  }
  return all;
}

ManualOptimization& Module::optimization() const {
  if (context_.optimization == nullptr) {
    throw UsageError(fmt::format(
        "{}: optimizers are there while fit trains only. Use them in training_step() and the hooks "
        "around it.",
        class_name(*this)));
  }
  return *context_.optimization;
}

int64_t Module::estimated_stepping_batches() const {
  if (context_.estimate_steps == nullptr) {
    throw UsageError(
        fmt::format("{}: estimated_stepping_batches() is known in configure_optimizers() only.",
                    class_name(*this)));
  }
  return (*context_.estimate_steps)();
}

OptimizerHandle Module::optimizer(size_t index) {
  return {optimization(), optimization().optimizer(index)};
}

std::vector<LRScheduler*> Module::lr_schedulers() { return optimization().lr_schedulers(); }

void Module::manual_backward(const torch::Tensor& loss) { optimization().backward(loss); }

ToggleScope Module::toggle(const OptimizerHandle& optimizer) { return {optimization(), optimizer}; }

std::string class_name(const Module& module) { return type_name(typeid(module)); }

}  // namespace trainer
