#pragma once
// The one class a researcher writes: layers, a training step, and an optimizer. The Trainer does
// everything else.
//
//   class LitClassifier : public trainer::Module {
//     torch::Tensor training_step(const trainer::Batch& batch, int64_t) override {
//       auto [x, y] = batch.unpack<2>();
//       auto loss = torch::nn::functional::cross_entropy(forward(x), y);
//       log("train_loss", loss);
//       return loss;
//     }
//     trainer::OptimizerConfig configure_optimizers() override { ... }
//   };
//
// Hooks have Lightning's names, order and meaning (docs/step.md). A module works without a Trainer
// too: log() then does nothing.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/nn/module.h>

#include <trainer/core/batch.h>
#include <trainer/manual_optimization.h>
#include <trainer/metric_collector.h>
#include <trainer/metrics/metric.h>
#include <trainer/optim/optimizer_config.h>
#include <trainer/progress.h>
#include <trainer/strategy.h>

namespace trainer {

class Callback;
class Trainer;

/// What a run gives a module; null outside of it.
struct ModuleContext {
  MetricCollector* metrics = nullptr;
  const Progress* progress = nullptr;
  ManualOptimization* optimization = nullptr;
  const std::function<int64_t()>* estimate_steps = nullptr;
};

class Module : public torch::nn::Module {
 public:
  using Base = Module;
  static constexpr const char* kKind = "module";

  /// The loss of a batch, a scalar that backward() can start from.
  virtual torch::Tensor training_step(const Batch& batch, int64_t batch_idx) = 0;
  virtual void validation_step(const Batch& batch, int64_t batch_idx);
  /// Throws UsageError unless overridden.
  virtual void test_step(const Batch& batch, int64_t batch_idx);
  /// The predictions for a batch: [batch, ...]. Throws UsageError unless overridden.
  virtual torch::Tensor predict_step(const Batch& batch, int64_t batch_idx);

  /// The optimizers, in any of the shapes of OptimizerConfig. Throws UsageError unless overridden
  /// or chosen in the configuration (`optimizer:`).
  virtual OptimizerConfig configure_optimizers();
  /// False: training_step() runs backward passes and steps the optimizers itself, through
  /// optimizer() and manual_backward(); it may return an undefined loss then.
  virtual bool automatic_optimization() const { return true; }
  /// Callbacks that belong to the module; one replaces the Trainer's of the same class.
  virtual std::vector<std::shared_ptr<Callback>> configure_callbacks();
  /// Builds layers that are too large to build in the constructor; may run more than once.
  virtual void configure_model() {}

  /// How much a batch counts in the gradient of a step made of several batches or ranks: its
  /// samples.
  virtual double loss_weight(const Batch& batch) const {
    weighs_by_samples_ = true;
    return static_cast<double>(batch.size());
  }
  /// loss_weight() is not overridden. Known once it was called.
  bool weighs_by_samples() const { return weighs_by_samples_; }

  /// Inference only: no parameter requires a gradient, the module is in eval mode; and back.
  void freeze();
  void unfreeze();

  virtual void prepare_data() {}
  virtual void setup(Stage) {}
  virtual void teardown(Stage) {}

  virtual void on_fit_start() {}
  virtual void on_fit_end() {}
  virtual void on_train_start() {}
  virtual void on_train_end() {}
  virtual void on_train_epoch_start() {}
  virtual void on_train_epoch_end() {}
  /// False skips this batch and the rest of the epoch.
  virtual bool on_train_batch_start(const Batch&, int64_t /*batch_idx*/) { return true; }
  virtual void on_train_batch_end(const torch::Tensor& /*loss*/, const Batch&,
                                  int64_t /*batch_idx*/) {}
  /// Before validation within fit. Gradients are zeroed by the strategy before the next window.
  virtual void on_validation_model_zero_grad() {}
  /// Puts the module in eval mode; every submodule is brought back to the mode it was in before the
  /// _train hook is called.
  virtual void on_validation_model_eval() { eval(); }
  virtual void on_validation_model_train() {}
  virtual void on_test_model_eval() { eval(); }
  virtual void on_test_model_train() {}
  virtual void on_predict_model_eval() { eval(); }
  virtual void on_validation_start() {}
  virtual void on_validation_end() {}
  virtual void on_validation_epoch_start() {}
  virtual void on_validation_epoch_end() {}
  virtual void on_validation_batch_start(const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_validation_batch_end(const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_test_start() {}
  virtual void on_test_end() {}
  virtual void on_test_epoch_start() {}
  virtual void on_test_epoch_end() {}
  virtual void on_test_batch_start(const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_test_batch_end(const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_predict_start() {}
  virtual void on_predict_end() {}
  virtual void on_predict_epoch_start() {}
  virtual void on_predict_epoch_end() {}
  virtual void on_predict_batch_start(const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_predict_batch_end(const torch::Tensor& /*prediction*/, const Batch&,
                                    int64_t /*batch_idx*/) {}

  virtual void on_before_zero_grad(torch::optim::Optimizer&) {}
  virtual void on_before_backward(const torch::Tensor& /*loss*/) {}
  virtual void on_after_backward() {}
  virtual void on_before_optimizer_step(torch::optim::Optimizer&) {}

  /// Zeroes the gradients before the first backward pass of a step.
  virtual void optimizer_zero_grad(torch::optim::Optimizer& optimizer, Strategy& strategy);
  /// Runs the backward pass; override to retain the graph, say.
  virtual void backward(const torch::Tensor& loss) { loss.backward(); }
  /// Clips before the step by calling clip_gradients(); `max_norm` and `max_value` are the
  /// Trainer's settings, at most one of them is set.
  virtual void configure_gradient_clipping(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                           std::optional<double> max_norm,
                                           std::optional<double> max_value);
  virtual void clip_gradients(torch::optim::Optimizer& optimizer, Strategy& strategy,
                              std::optional<double> max_norm, std::optional<double> max_value);
  /// Steps a schedule; `metric` is the value of its monitor, where it has one.
  virtual void lr_scheduler_step(LRScheduler& scheduler, std::optional<double> metric);
  /// Updates the parameters. `closure` runs training_step() and backward() and must be evaluated
  /// exactly as often as the optimizer asks: override to wrap or skip the update, as in Lightning.
  virtual torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                       const std::function<torch::Tensor()>& closure);

  /// May add to, and read from, the checkpoint's trainer_state.json under "user".
  virtual void on_save_checkpoint(nlohmann::json& /*user*/) {}
  virtual void on_load_checkpoint(const nlohmann::json& /*user*/) {}

 protected:
  /// Logs one number under a name. Costs well below a microsecond on the processor and never waits
  /// for a device. Throws UsageError for a tensor of more than one element or a hook that cannot
  /// log.
  void log(std::string_view name, const torch::Tensor& value, const LogOptions& options = {}) {
    if (context_.metrics != nullptr) {
      context_.metrics->log(name, value, options);
    }
  }
  void log(std::string_view name, double value, const LogOptions& options = {}) {
    if (context_.metrics != nullptr) {
      context_.metrics->log(name, value, options);
    }
  }

  /// The same for a metric that keeps its state, which must be registered in this module
  /// (register_module()): else UsageError.
  void log(std::string_view name, metrics::Metric& metric, const LogOptions& options = {});

  /// Several values with the same options.
  void log_dict(const std::vector<std::pair<std::string_view, torch::Tensor>>& values,
                const LogOptions& options = {}) {
    for (const auto& [name, value] : values) {
      log(name, value, options);
    }
  }

  /// In configure_optimizers(): the optimizer steps that this fit will take, for a schedule of its
  /// length; -1 where nobody knows. Throws UsageError elsewhere.
  int64_t estimated_stepping_batches() const;

  // Manual optimization (automatic_optimization() is false); each throws UsageError outside of fit.

  /// The optimizers of configure_optimizers(), in that order.
  OptimizerHandle optimizer(size_t index = 0);
  /// Their schedules, for the module to step.
  std::vector<LRScheduler*> lr_schedulers();
  /// Runs the backward pass with its hooks.
  void manual_backward(const torch::Tensor& loss);
  /// Until the scope ends, only the parameters of this optimizer require gradients.
  [[nodiscard]] ToggleScope toggle(const OptimizerHandle& optimizer);

  /// current_epoch, global_step, batch_idx of the run this module is in; zeros outside of one.
  const Progress& progress() const {
    return context_.progress != nullptr ? *context_.progress : kNoProgress;
  }

 private:
  friend class ModuleAttachment;
  friend class Trainer;  // for Trainer::log()
  ManualOptimization& optimization() const;

  static const Progress kNoProgress;
  ModuleContext context_;
  mutable bool weighs_by_samples_ = false;
};

/// The metrics that are registered in a module, by their dotted names.
MetricCollector::NamedMetrics registered_metrics(const Module& module);

/// The class of a module without its namespaces: what checkpoints record.
std::string class_name(const Module& module);

/// Gives a module what a loop has for it, for the scope's life. Scopes nest: what the inner one
/// leaves out stays that of the outer (in validation within fit, the optimizers).
class ModuleAttachment {
 public:
  ModuleAttachment(Module& module, const ModuleContext& context)
      : module_(module), outer_(module.context_) {
    auto& own = module.context_;
    own.metrics = context.metrics != nullptr ? context.metrics : own.metrics;
    own.progress = context.progress != nullptr ? context.progress : own.progress;
    own.optimization = context.optimization != nullptr ? context.optimization : own.optimization;
    own.estimate_steps =
        context.estimate_steps != nullptr ? context.estimate_steps : own.estimate_steps;
  }
  ModuleAttachment(const ModuleAttachment&) = delete;
  ModuleAttachment& operator=(const ModuleAttachment&) = delete;
  ~ModuleAttachment() { module_.context_ = outer_; }

 private:
  Module& module_;
  const ModuleContext outer_;
};

}  // namespace trainer
