#include <trainer/eval_loop.h>

#include <algorithm>
#include <string>

#include <c10/core/InferenceMode.h>

#include <trainer/core/seed.h>
#include <trainer/repetition_scope.h>
#include <trainer/signals.h>

namespace trainer {
namespace {

/// Remembers the mode of every submodule and brings each back, one by one.
class ModeScope {
 public:
  explicit ModeScope(torch::nn::Module& module) { remember(module); }
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;
  ~ModeScope() { restore(); }

  void restore() {
    for (const auto& [module, training] : modes_) {
      // train(mode) would set the children too; they follow in this list and get their own mode
      // back.
      module->train(training);
    }
    modes_.clear();
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

/// Gradients off; within fit always by no_grad, since tensors made in inference mode cannot take
/// part in training.
class GradientsOff {
 public:
  explicit GradientsOff(bool inference_mode) : inference_mode_(inference_mode) {}

 private:
  const c10::InferenceMode inference_mode_;
  const torch::NoGradGuard no_grad_;
};

/// Evaluation goes through the data in the same order each time.
void start(DataLoader& loader, int64_t num_batches) {
  loader.start(/*epoch=*/0, /*first_batch=*/0, num_batches == kAllBatches ? -1 : num_batches);
}

std::string suffix(size_t dataloader_idx, size_t num_loaders) {
  return num_loaders > 1 ? "/dataloader_idx_" + std::to_string(dataloader_idx) : "";
}

/// The hooks of one kind of evaluation, so that the pass below is written once.
struct Hooks {
  const char* step_name;
  void (Module::*step)(const Batch&, int64_t);
  void (Module::*model_eval)();
  void (Module::*model_train)();
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
    &Module::on_validation_model_eval,
    &Module::on_validation_model_train,
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
    &Module::on_test_model_eval,
    &Module::on_test_model_train,
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

std::vector<EvalData> limited(std::vector<DataLoader> loaders, const Division& division,
                              const BatchLimit& limit, const char* name) {
  std::vector<EvalData> data;
  for (auto& loader : loaders) {
    loader.divide_batches(division);
    const int64_t batches = limited_batches(limit, loader.size(), name);
    data.push_back({std::move(loader), batches});
  }
  return data;
}

int64_t num_batches(const std::vector<EvalData>& data) {
  int64_t sum = 0;
  for (const auto& one : data) {
    sum = one.num_batches == kAllBatches ? kAllBatches : sum + one.num_batches;
    if (sum == kAllBatches) {
      break;
    }
  }
  return sum;
}

/// Of several loaders, or of one that combines several.
void EvalLoop::set_dataloader_idx(size_t index, const std::vector<EvalData>& data) {
  run_.progress.dataloader_idx =
      data.size() > 1 ? static_cast<int64_t>(index) : data.front().loader.dataloader_idx();
}

/// Whoever sends a signal does not wait for the rest of a long validation; a resumed run repeats it
/// from its start, unless rows of it were written.
bool EvalLoop::is_given_up(const MetricCollector& metrics) const {
  // Several ranks agree on a signal at the edge of a step.
  return run_.stage == Stage::kFit && run_.strategy.world_size() == 1 &&
         SignalScope::received() != 0 && !metrics.has_step_values();
}

/// Through a batch that other ranks have: each sample counts once, so nothing is kept of it. But
/// where parameters are sharded, the others wait for this rank's slices.
void EvalLoop::go_through(Batch batch, const std::function<void(const Batch&)>& step) {
  if (run_.strategy.sharding() != nullptr) {
    const RepetitionScope repetition(run_, /*is_repeated=*/true);
    const Batch transferred = run_.transfer(std::move(batch));
    const auto autocast = run_.precision.autocast(run_.strategy.device());
    step(transferred);
  }
}

bool EvalLoop::evaluate(EvalKind kind, std::vector<EvalData>& data, int64_t max_batches,
                        MetricCollector& metrics, Metrics* result) {
  const Hooks& hooks = kind == EvalKind::kValidation ? kValidationHooks : kTestHooks;
  Module& module = run_.module;
  CallbackList& callbacks = run_.callbacks;
  const RngIsolation rng;
  const ModuleAttachment attachment(module, {.metrics = &metrics, .progress = &run_.progress});
  const GradientsOff gradients_off(run_.stage != Stage::kFit && run_.config.inference_mode);
  ModeScope modes(module);

  (module.*hooks.model_eval)();
  metrics.enter(MetricCollector::Scope::kEpoch, "an epoch hook");
  call<&C::on_validation_start, &C::on_test_start>(kind, callbacks);
  (module.*hooks.start)();
  call<&C::on_validation_epoch_start, &C::on_test_epoch_start>(kind, callbacks);
  (module.*hooks.epoch_start)();
  num_seen_.resize(data.size());
  for (size_t i = 0; i < data.size(); ++i) {
    metrics.set_suffix(suffix(i, data.size()));
    DataLoader& loader = data[i].loader;
    start(loader, std::min(data[i].num_batches, max_batches));
    bool had_batches = false;
    for (int64_t batch_idx = 0; auto next = loader.next(); ++batch_idx) {
      set_dataloader_idx(i, data);
      if (loader.is_repeated()) {
        go_through(std::move(*next), [&](const Batch& repeated) {
          metrics.enter(MetricCollector::Scope::kEvalBatch, hooks.step_name, /*batch_size=*/0);
          (module.*hooks.step)(repeated, batch_idx);
        });
        continue;
      }
      const Batch batch = run_.transfer(std::move(*next));
      had_batches = true;
      metrics.enter(MetricCollector::Scope::kEvalBatch, hooks.step_name, batch.size());
      call<&C::on_validation_batch_start, &C::on_test_batch_start>(kind, callbacks, batch,
                                                                   batch_idx);
      (module.*hooks.batch_start)(batch, batch_idx);
      {
        const auto autocast = run_.precision.autocast(run_.strategy.device());
        (module.*hooks.step)(batch, batch_idx);
      }
      call<&C::on_validation_batch_end, &C::on_test_batch_end>(kind, callbacks, batch, batch_idx);
      (module.*hooks.batch_end)(batch, batch_idx);
      if (is_given_up(metrics)) {
        loader.stop();
        run_.progress.dataloader_idx = 0;
        metrics.reset_epoch();
        return false;
      }
      if (result != nullptr && metrics.has_step_values()) {
        run_.publish_step(metrics, num_seen_[i]++);
      }
    }
    if (!had_batches) {
      metrics.miss_batches();
    }
  }
  run_.progress.dataloader_idx = 0;
  metrics.set_suffix("");
  metrics.enter(MetricCollector::Scope::kEpoch, "an epoch hook");
  call<&C::on_validation_epoch_end, &C::on_test_epoch_end>(kind, callbacks);
  (module.*hooks.epoch_end)();
  metrics.enter(MetricCollector::Scope::kForbidden, "a hook after the evaluation epoch");
  if (result != nullptr) {
    *result = run_.publish_epoch(metrics);
  }
  metrics.reset_epoch();
  if (kind == EvalKind::kValidation) {
    callbacks.call_acting<&C::on_validation_end>();
  } else {
    callbacks.call<&C::on_test_end>();
  }
  (module.*hooks.end)();
  modes.restore();
  (module.*hooks.model_train)();
  return true;
}

std::optional<Metrics> EvalLoop::run(EvalKind kind, std::vector<EvalData>& data) {
  MetricCollector metrics;
  Metrics result;
  if (!evaluate(kind, data, kAllBatches, metrics, &result)) {
    return std::nullopt;
  }
  // After the isolation above has ended, so that a checkpoint saved here holds the random state of
  // training.
  if (kind == EvalKind::kValidation) {
    run_.metrics.validation = {result.begin(), result.end()};
    run_.callbacks.call_monitoring<&C::on_validation_end>();
  }
  return result;
}

void EvalLoop::run_sanity_check(std::vector<EvalData>& data, int64_t num_batches) {
  MetricCollector metrics;
  evaluate(EvalKind::kValidation, data, num_batches, metrics, nullptr);
}

std::vector<torch::Tensor> EvalLoop::predict(std::vector<EvalData>& data) {
  Module& module = run_.module;
  CallbackList& callbacks = run_.callbacks;
  MetricCollector metrics;  // log() has no meaning here and says so
  metrics.enter(MetricCollector::Scope::kForbidden, "predict");
  const ModuleAttachment attachment(module, {.metrics = &metrics, .progress = &run_.progress});
  const GradientsOff gradients_off(run_.config.inference_mode);
  const ModeScope modes(module);
  std::vector<torch::Tensor> predictions;

  module.on_predict_model_eval();
  callbacks.call<&C::on_predict_start>();
  module.on_predict_start();
  callbacks.call<&C::on_predict_epoch_start>();
  module.on_predict_epoch_start();
  for (size_t i = 0; i < data.size(); ++i) {
    start(data[i].loader, data[i].num_batches);
    for (int64_t batch_idx = 0; auto next = data[i].loader.next(); ++batch_idx) {
      set_dataloader_idx(i, data);
      if (data[i].loader.is_repeated()) {
        go_through(std::move(*next),
                   [&](const Batch& repeated) { module.predict_step(repeated, batch_idx); });
        continue;
      }
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
  }
  run_.progress.dataloader_idx = 0;
  callbacks.call<&C::on_predict_epoch_end>();
  module.on_predict_epoch_end();
  callbacks.call<&C::on_predict_end>();
  module.on_predict_end();
  return predictions;
}

}  // namespace trainer
