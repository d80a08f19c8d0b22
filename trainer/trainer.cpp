#include <trainer/trainer.h>

#include <algorithm>
#include <set>
#include <typeinfo>

#include <c10/util/Type.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/builtins.h>
#include <trainer/checkpoint/checkpoint.h>
#include <trainer/checkpoint/module_state.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/fit_loop.h>
#include <trainer/precision.h>
#include <trainer/provenance.h>
#include <trainer/run.h>
#include <trainer/signals.h>
#include <trainer/version.h>

namespace trainer {
namespace {

using C = Callback;

/// Loaders given by hand, as a data module.
class GivenLoaders : public DataModule {
 public:
  GivenLoaders(DataLoader train, DataLoader val) : train_(std::move(train)), val_(std::move(val)) {}
  DataLoader train_dataloader() override { return std::move(train_); }
  DataLoader val_dataloader() override { return std::move(val_); }

 private:
  DataLoader train_, val_;
};

/// The settings as if they had come from a file: checked, and with every class's arguments
/// complete.
TrainerConfig resolved(const TrainerConfig& config) {
  register_builtins();
  config::Diagnostics diagnostics;
  auto result = config::read<TrainerConfig>(config::write(config), "trainer", diagnostics);
  diagnostics.throw_if_any();
  return result;
}

/// Class name, its own key, and a number where two would be alike: what a checkpoint calls a
/// callback or logger.
template <class T>
class StateKeys {
 public:
  std::string operator()(const T& object) {
    std::string key = c10::demangle(typeid(object).name());
    key = key.substr(key.rfind(':') == std::string::npos ? 0 : key.rfind(':') + 1);
    if constexpr (requires { object.state_key(); }) {
      key += object.state_key().empty() ? "" : "/" + object.state_key();
    }
    const std::string base = key;
    for (int i = 2; !used_.insert(key).second; ++i) {
      key = fmt::format("{}#{}", base, i);
    }
    return key;
  }

 private:
  std::set<std::string> used_;
};

template <class T>
nlohmann::json save_states(const std::vector<std::shared_ptr<T>>& objects) {
  auto states = nlohmann::json::object();
  StateKeys<T> keys;
  for (const auto& object : objects) {
    const std::string key = keys(*object);
    if (auto state = object->state_dict(); !state.is_null()) {
      states[key] = std::move(state);
    }
  }
  return states;
}

template <class T>
void load_states(const std::vector<std::shared_ptr<T>>& objects, const nlohmann::json& states) {
  StateKeys<T> keys;
  for (const auto& object : objects) {
    const auto state = states.find(keys(*object));
    if (state != states.end()) {
      object->load_state_dict(*state);
    }
  }
}

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kOptimizer = "optimizer-rank00000.safetensors";
constexpr const char* kState = "trainer_state.json";

}  // namespace

Trainer::Trainer(TrainerConfig config) : config_(resolved(config)) {
  strategy_ = config_.strategy.create();
  strategy_->set_device(config_.accelerator.create()->device(/*local_rank=*/0));
  precision_ = std::make_unique<Precision>(config_.precision);
  add_default_callbacks();
  create_callbacks_and_loggers();
}

Trainer::~Trainer() = default;

void Trainer::add_default_callbacks() {
  const std::pair<bool, const char*> defaults[] = {
      {config_.enable_progress_bar, "ProgressBar"},
      {config_.enable_model_summary, "ModelSummary"},
      {config_.enable_checkpointing, "ModelCheckpoint"}};
  for (const auto& [enabled, name] : defaults) {
    const bool present =
        std::any_of(config_.callbacks.begin(), config_.callbacks.end(),
                    [wanted = name](const auto& spec) { return spec.class_path == wanted; });
    if (enabled && !present) {
      config_.callbacks.emplace_back(name);
    }
  }
}

void Trainer::create_callbacks_and_loggers() {
  callbacks_.clear();
  for (const auto& spec : config_.callbacks) {
    callbacks_.push_back(spec.create());
  }
  loggers_.clear();
  for (const auto& spec : config_.logger) {
    loggers_.push_back(spec.create());
  }
}

void Trainer::fit(Module& module, DataModule& data, const CkptPath& ckpt_path) {
  if (progress_.global_step > 0) {
    create_callbacks_and_loggers();  // what they remember belongs to an earlier run
  }
  progress_ = {};
  callback_metrics_.clear();
  validation_metrics_.clear();
  stop_signal_ = 0;
  should_stop = false;
  execute(Stage::kFit, module, data, ckpt_path, [&](Run& run, const CheckpointReader* checkpoint) {
    const SignalScope signals;
    FitLoop loop(run, should_stop);
    loop.setup();
    fit_loop_ = &loop;
    run.callbacks.call<&C::on_fit_start>();
    module.on_fit_start();
    if (checkpoint != nullptr) {
      const auto state = checkpoint->json(kState);
      loop.load_state_dict(state.at("loop"));
      load_optimizer(module, loop.optimizer(), checkpoint->tensors(kOptimizer),
                     state.at("optimizer_groups"));
      log::info(fmt::format("resuming from {} (epoch {}, step {})", checkpoint->path().string(),
                            progress_.current_epoch, progress_.global_step));
    }
    loop.run();
    stop_signal_ = SignalScope::received();
    run.callbacks.call<&C::on_fit_end>();
    module.on_fit_end();
    fit_loop_ = nullptr;
  });
}

void Trainer::fit(Module& module, DataLoader train, DataLoader val, const CkptPath& ckpt_path) {
  GivenLoaders data(std::move(train), std::move(val));
  fit(module, data, ckpt_path);
}

Trainer::MetricMap Trainer::validate(Module& module, DataModule& data, const CkptPath& ckpt_path) {
  return evaluate(Stage::kValidate, module, data, ckpt_path);
}

Trainer::MetricMap Trainer::test(Module& module, DataModule& data, const CkptPath& ckpt_path) {
  return evaluate(Stage::kTest, module, data, ckpt_path);
}

Trainer::MetricMap Trainer::evaluate(Stage stage, Module& module, DataModule& data,
                                     const CkptPath& ckpt_path) {
  MetricMap result;
  execute(stage, module, data, ckpt_path, [&](Run& run, const CheckpointReader*) {
    const bool is_test = stage == Stage::kTest;
    DataLoader loader = is_test ? data.test_dataloader() : data.val_dataloader();
    if (!loader) {
      throw DataError(fmt::format("{}: the data module has no {}_dataloader(). Override it.",
                                  to_string(stage), is_test ? "test" : "val"));
    }
    const auto& limit = is_test ? config_.limit_test_batches : config_.limit_val_batches;
    const int64_t batches =
        limited_batches(limit, loader.size(), is_test ? "limit_test_batches" : "limit_val_batches");
    for (const auto& [name, value] :
         EvalLoop(run).run(is_test ? EvalKind::kTest : EvalKind::kValidation, loader, batches)) {
      result[name] = value;
    }
  });
  return result;
}

std::vector<torch::Tensor> Trainer::predict(Module& module, DataModule& data,
                                            const CkptPath& ckpt_path) {
  std::vector<torch::Tensor> predictions;
  execute(Stage::kPredict, module, data, ckpt_path, [&](Run& run, const CheckpointReader*) {
    DataLoader loader = data.predict_dataloader();
    if (!loader) {
      throw DataError("predict: the data module has no predict_dataloader(). Override it.");
    }
    const int64_t batches =
        limited_batches(config_.limit_predict_batches, loader.size(), "limit_predict_batches");
    predictions = EvalLoop(run).predict(loader, batches);
  });
  return predictions;
}

void Trainer::execute(Stage stage, Module& module, DataModule& data, const CkptPath& ckpt_path,
                      const Body& body) {
  stage_ = stage;
  std::unique_ptr<const CheckpointReader> checkpoint;
  if (ckpt_path) {
    const auto searched =
        searched_run_ ? searched_run_ : (run_directory_ ? std::optional(run_dir()) : std::nullopt);
    checkpoint = std::make_unique<CheckpointReader>(
        resolve_checkpoint(*ckpt_path, searched, config_.default_root_dir, class_name(module)));
  }
  Run run{config_,
          module,
          data,
          *strategy_,
          *precision_,
          CallbackList(*this, module, callbacks_),
          loggers_,
          progress_,
          callback_metrics_,
          validation_metrics_};
  run_ = &run;
  try {
    open_run_directory(stage, run, checkpoint.get());
    set_up(run, checkpoint.get());
    body(run, checkpoint.get());
    tear_down(run, stop_signal_ != 0 ? "interrupted" : "success");
  } catch (const std::exception& error) {
    tell_of_failure(run, error);
    fit_loop_ = nullptr;
    run_ = nullptr;
    throw;
  } catch (...) {
    fit_loop_ = nullptr;
    run_ = nullptr;
    throw;
  }
  run_ = nullptr;
}

/// What fails in here is logged and does not hide the first error.
void Trainer::tell_of_failure(Run& run, const std::exception& error) {
  const auto attempt = [](const auto& action) {
    try {
      action();
    } catch (const std::exception& second) {
      log::error(fmt::format("while ending the failed run: {}", second.what()));
    }
  };
  attempt([&] { run.callbacks.call<&C::on_exception>(error); });
  attempt([&] { run.data.on_exception(error); });
  for (const auto& logger : loggers_) {
    attempt([&] { logger->finalize("failed"); });
  }
}

void Trainer::set_up(Run& run, const CheckpointReader* checkpoint) {
  run.data.prepare_data();
  run.module.prepare_data();
  run.data.setup(stage_);
  run.callbacks.call<&C::setup>(stage_);
  run.module.setup(stage_);
  run.module.configure_model();
  if (checkpoint != nullptr) {
    restore(run, *checkpoint);
  }
  strategy_->setup_module(run.module);
}

void Trainer::tear_down(Run& run, std::string_view status) {
  run.data.teardown(stage_);
  run.callbacks.call<&C::teardown>(stage_);
  run.module.teardown(stage_);
  for (const auto& logger : loggers_) {
    logger->finalize(status);
  }
}

void Trainer::restore(Run& run, const CheckpointReader& checkpoint) {
  const auto state = checkpoint.json(kState);
  run.module.on_load_checkpoint(state.at("user"));
  load_module_state(run.module, checkpoint.tensors(kWeights));
  run.callbacks.call<&C::on_load_checkpoint>(state.at("user"));
  if (stage_ != Stage::kFit) {
    progress_.current_epoch = state.at("loop").at("current_epoch");
    progress_.global_step = state.at("loop").at("global_step");
    return;  // an evaluation reads weights; it neither resumes callbacks nor cuts what loggers
             // wrote
  }
  if (!state.at("data").is_null()) {
    run.data.load_state_dict(state.at("data"));
  }
  load_states(callbacks_, state.at("callbacks"));
  load_states(loggers_, state.at("loggers"));
  seed_everything(state.at("seed"));  // the order of the data goes on as it began
}

void Trainer::open_run_directory(Stage stage, Run& run, const CheckpointReader* checkpoint) {
  const bool saves = std::any_of(callbacks_.begin(), callbacks_.end(), [](const auto& callback) {
    return callback->role() == Callback::Role::kSaves;
  });
  const bool writes = !loggers_.empty() || (stage == Stage::kFit && saves);
  const auto of_checkpoint =
      checkpoint != nullptr ? RunDirectory::containing(checkpoint->path()) : std::nullopt;
  if (!writes) {
    run_directory_ = of_checkpoint;
    return;
  }
  if (of_checkpoint) {
    run_directory_ = of_checkpoint;
  } else if (stage == Stage::kFit || !run_directory_) {
    run_directory_ = RunDirectory::create_next(config_.default_root_dir);
  }
  for (const auto& logger : loggers_) {
    logger->setup(run_dir());
  }
  if (stage != Stage::kFit) {
    return;  // config.yaml and provenance.json tell how the run was trained
  }
  if (hyperparams_.is_null()) {
    config::Node model = config::Node::map();
    model.set("class_path", config::Node::scalar(class_name(run.module)));
    hyperparams_ = config::Node::map();
    hyperparams_.set("trainer", config::write(config_));
    hyperparams_.set("model", std::move(model));
  }
  fs::write_text_atomically(run_dir() / "config.yaml", config::to_yaml(hyperparams_));
  for (const auto& logger : loggers_) {
    logger->log_hyperparams(hyperparams_);
  }
  write_provenance(run_dir(), run.data);
}

void Trainer::save_checkpoint(const fs::Path& path) {
  if (!fit_loop().at_step_edge()) {
    throw UsageError(fmt::format(
        "save_checkpoint('{}'): called inside an accumulation window, whose gradients would "
        "be lost. Call it where trainer.at_step_edge() is true.",
        path.string()));
  }
  Run& run = *run_;
  for (const auto& logger : loggers_) {
    logger->save();
  }
  auto user = nlohmann::json::object();
  nlohmann::json state = {
      {"loop", fit_loop().state_dict()},      {"seed", global_seed()},
      {"callbacks", save_states(callbacks_)}, {"loggers", save_states(loggers_)},
      {"data", run.data.state_dict()},        {"optimizer_groups", optimizer_groups(optimizer())},
  };
  run.callbacks.call<&C::on_save_checkpoint>(user);
  run.module.on_save_checkpoint(user);
  state["user"] = std::move(user);

  CheckpointWriter writer(path);
  writer.add_tensors(kWeights, module_state(run.module));
  writer.add_tensors(kOptimizer, optimizer_tensors(run.module, optimizer()));
  writer.add_text(kState, state.dump(1) + "\n");
  writer.add_text("config.yaml", config::to_yaml(hyperparams_));
  writer.commit({{"module", class_name(run.module)},
                 {"epoch", state["loop"]["current_epoch"]},
                 {"global_step", progress_.global_step},
                 {"world_size", strategy_->world_size()},
                 {"trainer", kVersion}});
}

FitLoop& Trainer::fit_loop() const {
  if (fit_loop_ == nullptr) {
    throw UsageError("Trainer: this is only there while fit runs.");
  }
  return *fit_loop_;
}

torch::optim::Optimizer& Trainer::optimizer() { return fit_loop().optimizer(); }
bool Trainer::has_lr_scheduler() const { return fit_loop().lr_scheduler() != nullptr; }
bool Trainer::sanity_checking() const {
  return fit_loop_ != nullptr && fit_loop_->sanity_checking();
}
int64_t Trainer::num_training_batches() const {
  return fit_loop_ != nullptr ? fit_loop_->num_training_batches() : 0;
}
int64_t Trainer::num_val_batches() const {
  return fit_loop_ != nullptr ? fit_loop_->num_val_batches() : 0;
}
bool Trainer::validates_in_this_epoch() const {
  return fit_loop_ != nullptr && fit_loop_->validates_in_this_epoch();
}
bool Trainer::is_done() const { return fit_loop_ != nullptr && fit_loop_->is_done(); }
bool Trainer::at_step_edge() const { return fit_loop_ != nullptr && fit_loop_->at_step_edge(); }

Trainer::MetricMap Trainer::callback_metrics() const {
  MetricMap all = callback_metrics_;
  if (fit_loop_ != nullptr) {
    for (const auto& [name, value] : fit_loop_->metrics().fresh_values()) {
      all[name] = value;
    }
  }
  return all;
}

Metrics Trainer::progress_bar_metrics() const {
  return fit_loop_ != nullptr ? fit_loop_->metrics().progress_bar_metrics() : Metrics{};
}

void Trainer::log(std::string_view name, double value, const LogOptions& options) {
  fit_loop().metrics().log(name, value, options);
}

}  // namespace trainer
