#include <trainer/eval_loop.h>

#include <c10/core/InferenceMode.h>

#include <trainer/core/seed.h>

namespace trainer {
namespace {

/// Puts every submodule in eval mode and back into the mode it was in, one by one.
class EvalMode {
 public:
  explicit EvalMode(torch::nn::Module& module) {
    remember(module);
    module.eval();
  }
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;
  ~EvalMode() {
    for (const auto& [module, training] : modes_) {
      // train(mode) would set the children too; they follow in this list and get their own mode
      // back.
      module->train(training);
    }
  }

 private:
  void remember(torch::nn::Module& module) {
    modes_.emplace_back(&module, module.is_training());
    for (const auto& child : module.children()) {
      remember(*child);
    }
  }
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;  // parents before children
};

/// The hooks of one kind of evaluation, so that the pass below is written once.
struct Hooks {
  const char* step_name;
  void (Module::*step)(const Batch&, int64_t);
  void (Module::*start)();
  void (Module::*epoch_start)();
  void (Module::*batch_start)(const Batch&, int64_t);
  void (Module::*batch_end)(const Batch&, int64_t);
  void (Module::*epoch_end)();
  void (Module::*end)();
};

constexpr Hooks kValidationHooks = {
    "validation_step",
    &Module::validation_step,
    &Module::on_validation_start,
    &Module::on_validation_epoch_start,
    &Module::on_validation_batch_start,
    &Module::on_validation_batch_end,
    &Module::on_validation_epoch_end,
    &Module::on_validation_end,
};

constexpr Hooks kTestHooks = {
    "test_step",
    &Module::test_step,
    &Module::on_test_start,
    &Module::on_test_epoch_start,
    &Module::on_test_batch_start,
    &Module::on_test_batch_end,
    &Module::on_test_epoch_end,
    &Module::on_test_end,
};

/// Calls the callback hook of the kind at hand.
template <auto Validation, auto Test, class... Args>
void call(EvalKind kind, CallbackList& callbacks, Args&&... args) {
  if (kind == EvalKind::kValidation) {
    callbacks.call<Validation>(args...);
  } else {
    callbacks.call<Test>(args...);
  }
}

using C = Callback;

}  // namespace

void EvalLoop::evaluate(EvalKind kind, DataLoader& loader, int64_t num_batches,
                        MetricCollector& metrics, Metrics* result) {
  const Hooks& hooks = kind == EvalKind::kValidation ? kValidationHooks : kTestHooks;
  Module& module = run_.module;
  CallbackList& callbacks = run_.callbacks;
  const RngIsolation rng;
  const ModuleAttachment attachment(module, metrics, run_.progress);
  const torch::NoGradGuard no_grad;
  const EvalMode eval_mode(module);

  metrics.enter(MetricCollector::Scope::kEpoch, "an epoch hook");
  call<&C::on_validation_start, &C::on_test_start>(kind, callbacks);
  (module.*hooks.start)();
  call<&C::on_validation_epoch_start, &C::on_test_epoch_start>(kind, callbacks);
  (module.*hooks.epoch_start)();
  loader.start(/*epoch=*/0, /*first_batch=*/0, num_batches);
  for (int64_t batch_idx = 0; auto next = loader.next(); ++batch_idx) {
    const Batch batch = run_.transfer(std::move(*next));
    metrics.enter(MetricCollector::Scope::kEvalBatch, hooks.step_name, batch.size());
    call<&C::on_validation_batch_start, &C::on_test_batch_start>(kind, callbacks, batch, batch_idx);
    (module.*hooks.batch_start)(batch, batch_idx);
    {
      const auto autocast = run_.precision.autocast(run_.strategy.device());
      (module.*hooks.step)(batch, batch_idx);
    }
    call<&C::on_validation_batch_end, &C::on_test_batch_end>(kind, callbacks, batch, batch_idx);
    (module.*hooks.batch_end)(batch, batch_idx);
  }
  metrics.enter(MetricCollector::Scope::kEpoch, "an epoch hook");
  call<&C::on_validation_epoch_end, &C::on_test_epoch_end>(kind, callbacks);
  (module.*hooks.epoch_end)();
  metrics.enter(MetricCollector::Scope::kForbidden, "a hook after the evaluation epoch");
  if (result != nullptr) {
    *result = run_.publish_epoch(metrics);
  }
  if (kind == EvalKind::kValidation) {
    callbacks.call_acting<&C::on_validation_end>();
  } else {
    callbacks.call<&C::on_test_end>();
  }
  (module.*hooks.end)();
}

Metrics EvalLoop::run(EvalKind kind, DataLoader& loader, int64_t num_batches) {
  MetricCollector metrics;
  Metrics result;
  evaluate(kind, loader, num_batches, metrics, &result);
  // After the isolation above has ended, so that a checkpoint saved here holds the random state of
  // training.
  if (kind == EvalKind::kValidation) {
    run_.metrics.validation = {result.begin(), result.end()};
    run_.callbacks.call_monitoring<&C::on_validation_end>();
  }
  return result;
}

void EvalLoop::run_sanity_check(DataLoader& loader, int64_t num_batches) {
  MetricCollector metrics;
  evaluate(EvalKind::kValidation, loader, num_batches, metrics, nullptr);
}

std::vector<torch::Tensor> EvalLoop::predict(DataLoader& loader, int64_t num_batches) {
  Module& module = run_.module;
  CallbackList& callbacks = run_.callbacks;
  MetricCollector metrics;  // log() has no meaning here and says so
  metrics.enter(MetricCollector::Scope::kForbidden, "predict");
  const ModuleAttachment attachment(module, metrics, run_.progress);
  const c10::InferenceMode inference_mode;
  const EvalMode eval_mode(module);
  std::vector<torch::Tensor> predictions;

  callbacks.call<&C::on_predict_start>();
  module.on_predict_start();
  callbacks.call<&C::on_predict_epoch_start>();
  module.on_predict_epoch_start();
  loader.start(/*epoch=*/0, /*first_batch=*/0, num_batches);
  for (int64_t batch_idx = 0; auto next = loader.next(); ++batch_idx) {
    const Batch batch = run_.transfer(std::move(*next));
    callbacks.call<&C::on_predict_batch_start>(batch, batch_idx);
    module.on_predict_batch_start(batch, batch_idx);
    torch::Tensor prediction;
    {
      const auto autocast = run_.precision.autocast(run_.strategy.device());
      prediction = module.predict_step(batch, batch_idx);
    }
    callbacks.call<&C::on_predict_batch_end>(prediction, batch, batch_idx);
    module.on_predict_batch_end(prediction, batch, batch_idx);
    predictions.push_back(prediction.to(torch::kCPU));
  }
  callbacks.call<&C::on_predict_epoch_end>();
  module.on_predict_epoch_end();
  callbacks.call<&C::on_predict_end>();
  module.on_predict_end();
  return predictions;
}

}  // namespace trainer
