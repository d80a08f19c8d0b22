#include <trainer/trainer.h>

#include <algorithm>
#include <typeinfo>

#include <fmt/format.h>

#include <trainer/builtins.h>
#include <trainer/checkpoint/module_state.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/fit_loop.h>
#include <trainer/global_switches.h>
#include <trainer/job.h>
#include <trainer/precision.h>
#include <trainer/provenance.h>
#include <trainer/run.h>
#include <trainer/run_state.h>
#include <trainer/signals.h>
#include <trainer/world.h>

namespace trainer {
namespace {

using C = Callback;

/// Loaders given by hand, as a data module: one to train on and one for any evaluation. Each is
/// handed over once.
class GivenLoaders : public DataModule {
 public:
  GivenLoaders(DataLoader train, DataLoader eval)
      : train_(std::move(train)), eval_(std::move(eval)) {}
  DataLoader train_dataloader() override { return std::move(train_); }
  DataLoader val_dataloader() override { return std::move(eval_); }
  DataLoader test_dataloader() override { return std::move(eval_); }
  DataLoader predict_dataloader() override { return std::move(eval_); }

 private:
  DataLoader train_, eval_;
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

/// What a failed fit leaves, for its last words.
std::string describe_saved(const fs::Path& run_dir) {
  const auto last = run_dir.empty() ? std::nullopt : RunDirectory(run_dir, false).last();
  if (last) {
    return fmt::format(
        "Saved: {}\n  To go on from there, run the same command with --ckpt_path=last --run {}",
        last->string(), run_dir.string());
  }
  return flight::status().step > 0 ? "No checkpoint was saved." : "";
}

}  // namespace

Trainer::Trainer(TrainerConfig config)
    : config_(resolved(config).with_modes_applied()), metrics_(std::make_unique<RunMetrics>()) {
  config_.check_world(world());
  strategy_ = config_.strategy.create();
  strategy_->set_device(config_.accelerator.create()->device(world().local_rank()));
  if (strategy_->world_size() != world().size()) {
    throw ConfigError(fmt::format(
        "trainer.strategy: {} works on {} process, but {} were started together. Choose ddp, or "
        "start one.",
        config_.strategy.class_path, strategy_->world_size(), world().size()));
  }
  precision_ = std::make_unique<Precision>(config_.precision);
  add_default_callbacks();
  create_callbacks();
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

void Trainer::create_callbacks() {
  callbacks_.clear();
  for (const auto& spec : config_.callbacks) {
    callbacks_.push_back(spec.create());
  }
  callbacks_are_used_ = false;
}

void Trainer::fit(Module& module, DataModule& data, const CkptPath& ckpt_path) {
  if (callbacks_are_used_) {
    create_callbacks();  // what they remember belongs to another run
  }
  progress_ = {};
  *metrics_ = {};
  should_stop = false;
  execute(Stage::kFit, module, data, ckpt_path, [&](const SavedRun* saved) {
    const SignalScope signals;
    fit_loop_ = std::make_unique<FitLoop>(*run_, should_stop);
    fit_loop_->setup();
    run_->callbacks.call<&C::on_fit_start>();
    module.on_fit_start();
    if (saved != nullptr) {
      const flight::LongTask task("restores a checkpoint");
      saved->restore_loop(*fit_loop_, *run_);
      log::info(fmt::format("resuming from {} (epoch {}, step {})", saved->path().string(),
                            progress_.current_epoch, progress_.global_step));
    }
    fit_loop_->run();
    stop_signal_ = fit_loop_->stop_signal();
    run_->callbacks.call<&C::on_fit_end>();
    module.on_fit_end();
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

Trainer::MetricMap Trainer::validate(Module& module, DataLoader loader, const CkptPath& ckpt_path) {
  GivenLoaders data({}, std::move(loader));
  return validate(module, data, ckpt_path);
}

Trainer::MetricMap Trainer::test(Module& module, DataLoader loader, const CkptPath& ckpt_path) {
  GivenLoaders data({}, std::move(loader));
  return test(module, data, ckpt_path);
}

std::vector<torch::Tensor> Trainer::predict(Module& module, DataLoader loader,
                                            const CkptPath& ckpt_path) {
  GivenLoaders data({}, std::move(loader));
  return predict(module, data, ckpt_path);
}

Trainer::MetricMap Trainer::evaluate(Stage stage, Module& module, DataModule& data,
                                     const CkptPath& ckpt_path) {
  MetricMap result;
  execute(stage, module, data, ckpt_path, [&](const SavedRun*) {
    const bool is_test = stage == Stage::kTest;
    auto loaders = is_test ? data.test_dataloaders() : data.val_dataloaders();
    if (loaders.empty()) {
      throw DataError(fmt::format("{}: the data module has no {}_dataloader(). Override it.",
                                  to_string(stage), is_test ? "test" : "val"));
    }
    auto limited_data = is_test ? limited(std::move(loaders), run_->division(1),
                                          config_.limit_test_batches, "limit_test_batches")
                                : limited(std::move(loaders), run_->division(1),
                                          config_.limit_val_batches, "limit_val_batches");
    const auto kind = is_test ? EvalKind::kTest : EvalKind::kValidation;
    const auto metrics = EvalLoop(*run_).run(kind, limited_data);
    result = {metrics->begin(), metrics->end()};
  });
  return result;
}

std::vector<torch::Tensor> Trainer::predict(Module& module, DataModule& data,
                                            const CkptPath& ckpt_path) {
  std::vector<torch::Tensor> predictions;
  execute(Stage::kPredict, module, data, ckpt_path, [&](const SavedRun*) {
    auto loaders = data.predict_dataloaders();
    if (loaders.empty()) {
      throw DataError("predict: the data module has no predict_dataloader(). Override it.");
    }
    auto limited_data = limited(std::move(loaders), run_->division(1),
                                config_.limit_predict_batches, "limit_predict_batches");
    predictions = EvalLoop(*run_).predict(limited_data);
  });
  return predictions;
}

void Trainer::execute(Stage stage, Module& module, DataModule& data, const CkptPath& ckpt_path,
                      const std::function<void(const SavedRun*)>& body) {
  // Whatever way a stage ends, nothing of it stays behind.
  struct Cleanup {
    Trainer& trainer;
    ~Cleanup() {
      trainer.fit_loop_.reset();
      trainer.run_.reset();
      trainer.release_run_directory();
    }
  } const cleanup{*this};
  const GlobalSwitches switches(config_, *precision_);
  stage_ = stage;
  stop_signal_ = 0;
  callbacks_are_used_ = true;
  loggers_.clear();
  for (const auto& spec : config_.logger) {
    if (strategy_->is_global_zero()) {
      loggers_.push_back(spec.create());
    }
  }
  attach_callbacks_of(module);
  run_.reset(new Run{stage, config_, module, data, *strategy_, *precision_,
                     CallbackList(*this, module, callbacks_), loggers_, progress_, *metrics_,
                     hyperparams_.is_null() ? hyperparams_of(module) : hyperparams_,
                     optimizer_choice_});
  flight::set_run({}, {});
  const flight::Stage running(to_string(stage), config_.hang_timeout_s);
  MetricCollector none;
  none.enter(MetricCollector::Scope::kForbidden, "a hook outside of the loop, as setup");
  const ModuleAttachment attachment(module, {.metrics = &none, .progress = &progress_});
  try {
    std::optional<CheckpointReader> checkpoint;
    std::optional<SavedRun> saved;
    if (ckpt_path) {
      const auto own_run = run_directory_ ? std::optional(run_dir()) : std::nullopt;
      checkpoint.emplace(
          find_checkpoint(*ckpt_path, searched_run_ ? searched_run_ : own_run, class_name(module)));
      saved.emplace(*checkpoint);
    }
    claim_run_directory(saved ? &*saved : nullptr);
    set_up(saved ? &*saved : nullptr);
    body(saved ? &*saved : nullptr);
    strategy_->teardown_module(module);
    tear_down(stop_signal_ != 0 ? "interrupted" : "success");
  } catch (const Error& error) {
    // First, as the other ranks may wait for this one.
    world().mark_failed(failure_here(error.what(), static_cast<int>(error.exit_code())));
    tell_of_failure(error);
    throw;
  } catch (const std::exception& error) {
    world().mark_failed(failure_here(error.what(), static_cast<int>(ExitCode::kUserCode)));
    tell_of_failure(error);
    throw;
  } catch (...) {
    const std::runtime_error error("something was thrown that is no std::exception");
    world().mark_failed(failure_here(error.what(), static_cast<int>(ExitCode::kUserCode)));
    tell_of_failure(error);
    throw;
  }
}

/// Rank 0 chooses it; every rank reads it.
CheckpointReader Trainer::find_checkpoint(const std::string& ckpt_path,
                                          const std::optional<fs::Path>& run,
                                          const std::string& module_class) {
  if (world().size() == 1) {
    return open_checkpoint(ckpt_path, run, config_.default_root_dir, module_class);
  }
  std::optional<CheckpointReader> found;
  if (world().is_global_zero()) {
    found.emplace(open_checkpoint(ckpt_path, run, config_.default_root_dir, module_class));
  }
  const fs::Path path =
      world().broadcast(found ? std::filesystem::absolute(found->path()).string() : std::string());
  if (found) {
    return std::move(*found);
  }
  try {
    return CheckpointReader(path);
  } catch (const Error& error) {
    throw CheckpointError(
        fmt::format("{}\n  Rank 0 can read this checkpoint, rank {} on {} cannot. Put runs on a "
                    "disk that every "
                    "node sees (trainer.default_root_dir), or copy the folder to each.",
                    error.what(), world().rank(), host_name()));
  }
}

/// A callback of the module replaces the Trainer's of the same class, and that of an earlier stage.
void Trainer::attach_callbacks_of(Module& module) {
  const auto given = module.configure_callbacks();
  std::erase_if(callbacks_, [&](const auto& existing) {
    return std::any_of(given.begin(), given.end(), [&](const auto& callback) {
      return typeid(*callback) == typeid(*existing);
    });
  });
  callbacks_.insert(callbacks_.end(), given.begin(), given.end());
  if (config_.fast_dev_run.batches > 0) {  // nothing saves, nothing stops early
    std::erase_if(callbacks_, [](const auto& one) { return one->role() != Callback::Role::kActs; });
  }
}

/// What fails in here is logged and does not hide the first error.
void Trainer::tell_of_failure(const std::exception& error) {
  // Our own errors tell where; those of user code and of LibTorch do not.
  if (fit_loop_ != nullptr && dynamic_cast<const Error*>(&error) == nullptr) {
    log::error(fmt::format("fit failed in epoch {}, batch {}, after {} optimizer steps{}",
                           progress_.current_epoch, progress_.batch_idx, progress_.global_step,
                           sanity_checking() ? ", in the sanity check of validation" : ""));
  }
  const auto attempt = [](const auto& action) {
    try {
      action();
    } catch (const std::exception& second) {
      log::error(fmt::format("while ending the failed run: {}", second.what()));
    }
  };
  for (const auto& callback : run_->callbacks.all()) {
    attempt([&] { callback->on_exception(*this, run_->module, error); });
  }
  attempt([&] { run_->data.on_exception(error); });
  for (const auto& logger : loggers_) {
    attempt([&] { logger->finalize("failed"); });
  }
}

void Trainer::set_up(const SavedRun* saved) {
  const flight::LongTask task("sets the stage up");
  strategy_->teardown_module(run_->module);
  if (saved != nullptr) {
    if (stage_ == Stage::kFit && global_seed() != saved->seed()) {
      log::warning(
          fmt::format("the seed stays the checkpoint's {}: {} has no effect on a resumed run",
                      saved->seed(), global_seed()));
    }
    seed_everything(saved->seed());  // before data is split, so that it is split as it was
  }
  if (world().local_rank() == 0) {
    run_->data.prepare_data();
    run_->module.prepare_data();
  }
  world().barrier();
  run_->data.setup(stage_);
  run_->callbacks.call<&C::setup>(stage_);
  run_->module.setup(stage_);
  {
    const auto construction = strategy_->construction();
    run_->module.configure_model();
  }
  precision_->convert_module(run_->module);
  for (const auto& [name, metric] : registered_metrics(run_->module)) {
    metric->reset();  // what an interrupted stage left
  }
  if (saved != nullptr) {
    saved->restore_model(*run_);
    if (stage_ == Stage::kFit) {
      saved->restore_callbacks(*run_);
    } else {
      log::info(fmt::format("{}: weights of {}", to_string(stage_), saved->path().string()));
      progress_ = saved->progress();  // rows of an evaluation carry the step of its weights
    }
  }
  // Taken once: what a fit has made of the weights is not undone by the test after it.
  const auto init_from = std::exchange(init_from_, std::nullopt);
  if (init_from && saved == nullptr && strategy_->is_global_zero()) {  // the others get them by it
    log::info(init_module_state(run_->module, open_weights(*init_from)));
  }
  open_loggers(saved);
  strategy_->set_sync_batchnorm(config_.sync_batchnorm && stage_ == Stage::kFit);
  strategy_->setup_module(run_->module);
  if (saved != nullptr) {
    saved->restore_segments(*run_);
  }
}

void Trainer::tear_down(std::string_view status) {
  run_->data.teardown(stage_);
  run_->callbacks.call<&C::teardown>(stage_);
  run_->module.teardown(stage_);
  for (const auto& logger : loggers_) {
    logger->finalize(status);
  }
}

void Trainer::claim_run_directory(const SavedRun* saved) {
  if (strategy_->is_global_zero()) {
    claim_run_directory_alone(saved);
    if (stage_ == Stage::kFit) {
      tell_run_directory(run_dir());
    }
  }
  const fs::Path path = world().broadcast(run_dir().string());
  if (!strategy_->is_global_zero()) {
    run_directory_.reset();
    if (!path.empty()) {
      run_directory_.emplace(path, /*writes=*/false);
    }
  }
  if (world().size() > 1 && !path.empty()) {
    log::open_file(log::rank_file(path));
  }
  flight::set_run(path, stage_ == Stage::kFit
                            ? std::function<std::string()>([path] { return describe_saved(path); })
                            : nullptr);
}

void Trainer::claim_run_directory_alone(const SavedRun* saved) {
  const bool is_fit = stage_ == Stage::kFit;
  const auto of_checkpoint =
      saved != nullptr ? RunDirectory::containing(saved->path()) : std::nullopt;
  const bool writes =
      !loggers_.empty() || (is_fit && run_->callbacks.saves()) || stage_ == Stage::kPredict;
  if (!writes) {
    run_directory_ = of_checkpoint;
    return;
  }
  const auto existing = of_checkpoint || is_fit ? of_checkpoint : run_directory_;
  if (existing) {
    lock_ = fs::DirectoryLock::try_lock(existing->path());
    if (lock_) {
      run_directory_ = existing;
      std::error_code ignored;  // of a failure that this stage follows
      std::filesystem::remove(run_dir() / kErrorFile, ignored);
      std::filesystem::remove_all(run_dir() / "flight", ignored);
      return;
    }
    const std::string in_use =
        fmt::format("{}: another process trains in this folder", existing->path().string());
    if (is_fit) {
      throw UsageError(in_use +
                       ". Wait for its end, or start a run of its own: without --ckpt_path.");
    }
    log::info(in_use + "; what this evaluation writes goes to a new one.");
  }
  run_directory_ = RunDirectory::create_next(config_.default_root_dir);
  lock_ = fs::DirectoryLock::try_lock(run_dir());
}

/// A run that failed before it wrote anything leaves no folder.
void Trainer::release_run_directory() {
  if (lock_) {
    std::error_code error;
    if (std::filesystem::is_empty(run_dir(), error) && !error) {
      std::filesystem::remove(run_dir(), error);
      run_directory_.reset();
    }
    lock_.reset();
  }
}

void Trainer::open_loggers(const SavedRun* saved) {
  // What an evaluation writes stands apart: a resumed fit cuts its own rows, and no others.
  const bool is_fit = stage_ == Stage::kFit;
  for (const auto& logger : loggers_) {
    logger->setup(is_fit ? run_dir() : run_dir() / to_string(stage_));
  }
  if (!is_fit || !lock_) {
    return;  // config.yaml and provenance.json tell how the run was trained
  }
  if (saved != nullptr) {
    saved->restore_loggers(*run_);
  }
  fs::write_text_atomically(run_dir() / "config.yaml", config::to_yaml(run_->hyperparams));
  for (const auto& logger : loggers_) {
    logger->log_hyperparams(run_->hyperparams);
  }
  write_provenance(run_dir(), run_->data);
}

config::Node Trainer::hyperparams_of(const Module& module) const {
  config::Node model = config::Node::map();
  model.set("class_path", config::Node::scalar(class_name(module)));
  config::Node hyperparams = config::Node::map();
  hyperparams.set("trainer", config::write(config_));
  hyperparams.set("model", std::move(model));
  return hyperparams;
}

void Trainer::save_checkpoint(const fs::Path& path) {
  if (!fit_loop().at_step_edge()) {
    throw UsageError(fmt::format(
        "save_checkpoint('{}'): called inside an accumulation window, whose gradients would "
        "be lost. Call it where trainer.at_step_edge() is true.",
        path.string()));
  }
  save_run(path, *run_, fit_loop());
}

FitLoop& Trainer::fit_loop() const {
  if (fit_loop_ == nullptr) {
    throw UsageError("Trainer: this is only there while fit runs.");
  }
  return *fit_loop_;
}

std::vector<torch::optim::Optimizer*> Trainer::optimizers() {
  auto& optimization = fit_loop().optimization();
  std::vector<torch::optim::Optimizer*> all;
  for (size_t i = 0; i < optimization.num_optimizers(); ++i) {
    all.push_back(&optimization.optimizer(i));
  }
  return all;
}
std::vector<LRScheduler*> Trainer::lr_schedulers() {
  return fit_loop().optimization().lr_schedulers();
}
bool Trainer::sanity_checking() const {
  return fit_loop_ != nullptr && fit_loop_->sanity_checking();
}
int64_t Trainer::num_training_batches() const {
  const int64_t batches = fit_loop_ != nullptr ? fit_loop_->num_training_batches() : 0;
  return batches == kAllBatches ? kUnknownSize : batches;
}
int64_t Trainer::num_val_batches() const {
  const int64_t batches = fit_loop_ != nullptr ? fit_loop_->num_val_batches() : 0;
  return batches == kAllBatches ? kUnknownSize : batches;
}
bool Trainer::validates_in_this_epoch() const {
  return fit_loop_ != nullptr && fit_loop_->validates_in_this_epoch();
}
bool Trainer::is_done() const { return fit_loop_ != nullptr && fit_loop_->is_done(); }
bool Trainer::at_step_edge() const { return fit_loop_ != nullptr && fit_loop_->at_step_edge(); }

Trainer::MetricMap Trainer::callback_metrics() const {
  MetricMap all = metrics_->newest;
  if (fit_loop_ != nullptr) {
    for (const auto& [name, value] : fit_loop_->metrics().new_values()) {
      all[name] = value;
    }
  }
  return all;
}

const Trainer::MetricMap& Trainer::validation_metrics() const { return metrics_->validation; }

Metrics Trainer::progress_bar_metrics() const {
  Metrics all = fit_loop_ != nullptr ? fit_loop_->metrics().progress_bar_metrics() : Metrics{};
  const auto is_newer = [&](const std::string& name) {
    return std::any_of(all.begin(), all.end(), [&](const auto& one) { return one.first == name; });
  };
  for (const auto& [name, value] : metrics_->prog_bar) {
    if (!is_newer(name)) {
      all.emplace_back(name, value);
    }
  }
  return all;
}

void Trainer::log(std::string_view name, double value, const LogOptions& options) {
  if (run_ == nullptr) {
    throw UsageError(fmt::format(
        "Trainer::log('{}'): nothing runs. Log in a hook of a training, validation or test batch "
        "or epoch.",
        name));
  }
  run_->module.log(name, value, options);
}

}  // namespace trainer
