#pragma once
// The Trainer: give it a module and data, and it trains, validates, tests or predicts. It owns
// everything that is engineering: the loop, precision, strategy, checkpoints, loggers and the run's
// folder.
//
//   trainer::Trainer trainer({.max_epochs = 3, .precision = "bf16-mixed"});
//   trainer.fit(module, data);
//   trainer.test(module, data, "best");

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <trainer/callback.h>
#include <trainer/data/data_module.h>
#include <trainer/metric_collector.h>
#include <trainer/module.h>
#include <trainer/optim/optimizer_choice.h>
#include <trainer/progress.h>
#include <trainer/run_directory.h>
#include <trainer/trainer_config.h>

namespace trainer {

class FitLoop;
class Precision;
class SavedRun;
struct Run;
struct RunMetrics;

class Trainer {
 public:
  /// Throws ConfigError for a setting that is out of range or a class that is unknown.
  explicit Trainer(TrainerConfig config = {});
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;
  ~Trainer();

  using CkptPath = std::optional<std::string>;
  using MetricMap = std::map<std::string, double>;

  /// Trains from the start, or from a checkpoint ("last", "best" or a path) in the run's own
  /// folder. Returns at max_epochs, max_steps, should_stop, or after a signal (see stop_signal()).
  /// Throws what user code throws, and the errors of trainer/core/error.h.
  void fit(Module& module, DataModule& data, const CkptPath& ckpt_path = {});
  void fit(Module& module, DataLoader train, DataLoader val = {}, const CkptPath& ckpt_path = {});

  /// One pass over the validation or test data; the epoch's metrics by name.
  MetricMap validate(Module& module, DataModule& data, const CkptPath& ckpt_path = {});
  MetricMap validate(Module& module, DataLoader loader, const CkptPath& ckpt_path = {});
  MetricMap test(Module& module, DataModule& data, const CkptPath& ckpt_path = {});
  MetricMap test(Module& module, DataLoader loader, const CkptPath& ckpt_path = {});

  /// What predict_step() returned for each batch, on the processor.
  std::vector<torch::Tensor> predict(Module& module, DataModule& data,
                                     const CkptPath& ckpt_path = {});
  std::vector<torch::Tensor> predict(Module& module, DataLoader loader,
                                     const CkptPath& ckpt_path = {});

  /// Writes a complete checkpoint to the folder `path`, from a callback or hook during fit. Every
  /// rank has to call it; rank 0 writes. Collective: yes. Throws
  /// UsageError inside an accumulation window or outside of fit, IoError when it cannot be written.
  /// Syncs: yes.
  void save_checkpoint(const fs::Path& path);

  /// Where `last` and `best` are looked for when a checkpoint is given by those names; default:
  /// this trainer's own run, else the newest one.
  void set_run(const fs::Path& run_dir) { searched_run_ = run_dir; }
  /// An optimizer and a schedule by name, instead of the module's configure_optimizers().
  void set_optimizer(OptimizerChoice choice) { optimizer_choice_ = std::move(choice); }
  /// Weights to begin the next stage with, from a safetensors file or a checkpoint folder; what is
  /// taken by name is reported. Without effect where a checkpoint is given.
  void set_init_from(const fs::Path& weights) { init_from_ = weights; }
  /// The configuration that config.yaml and the loggers get; default: this trainer's settings and
  /// the module's class.
  void set_hyperparams(config::Node hyperparams) { hyperparams_ = std::move(hyperparams); }

  // For callbacks and hooks.

  /// Set it to end training at the edge of the step.
  bool should_stop = false;

  const TrainerConfig& config() const { return config_; }
  const Progress& progress() const { return progress_; }
  Stage stage() const { return stage_; }
  bool sanity_checking() const;
  /// kUnknownSize (-1) where only the end of a stream tells.
  int64_t num_training_batches() const;
  int64_t num_val_batches() const;
  /// Validation runs in the current epoch.
  bool validates_in_this_epoch() const;
  /// max_epochs or max_steps is reached.
  bool is_done() const;
  /// Between two optimizer steps, where a checkpoint can be saved.
  bool at_step_edge() const;
  /// The optimizers of the fit under way and their schedules. Throw UsageError outside of one.
  std::vector<torch::optim::Optimizer*> optimizers();
  std::vector<LRScheduler*> lr_schedulers();

  /// The newest value of every metric: `name` holds the last one, `name_step` and `name_epoch`
  /// where both exist.
  MetricMap callback_metrics() const;
  /// The metrics of the newest validation; empty before one.
  const MetricMap& validation_metrics() const;
  /// The newest values that were logged with prog_bar. Syncs: where values lie on another device.
  Metrics progress_bar_metrics() const;
  /// For callbacks: logs a number as the module's log() would in the hook that runs. Throws
  /// UsageError in a hook that cannot log.
  void log(std::string_view name, double value, const LogOptions& options = {});

  /// The folder of the run, empty before the first call and where nothing is written.
  fs::Path run_dir() const { return run_directory_ ? run_directory_->path() : fs::Path(); }
  const std::optional<RunDirectory>& run_directory() const { return run_directory_; }
  const std::vector<std::shared_ptr<Callback>>& callbacks() const { return callbacks_; }
  Strategy& strategy() { return *strategy_; }
  /// The signal that ended the last fit, 0 for none.
  int stop_signal() const { return stop_signal_; }

 private:
  /// What every stage does around its loop, which `body` runs: run folder, set-up hooks, restored
  /// weights, errors, teardown.
  void execute(Stage stage, Module& module, DataModule& data, const CkptPath& ckpt_path,
               const std::function<void(const SavedRun*)>& body);
  void set_up(const SavedRun* saved);
  void tear_down(std::string_view status);
  void tell_of_failure(const std::exception& error);
  MetricMap evaluate(Stage stage, Module& module, DataModule& data, const CkptPath& ckpt_path);
  /// Chooses and locks the folder that this stage writes to.
  void claim_run_directory(const SavedRun* saved);
  void claim_run_directory_alone(const SavedRun* saved);
  CheckpointReader find_checkpoint(const std::string& ckpt_path, const std::optional<fs::Path>& run,
                                   const std::string& module_class);
  void release_run_directory();
  void open_loggers(const SavedRun* saved);
  void add_default_callbacks();
  void create_callbacks();
  void attach_callbacks_of(Module& module);
  config::Node hyperparams_of(const Module& module) const;
  FitLoop& fit_loop() const;

  TrainerConfig config_;
  std::shared_ptr<Strategy> strategy_;
  std::unique_ptr<Precision> precision_;
  std::vector<std::shared_ptr<Callback>> callbacks_;
  std::vector<std::shared_ptr<Logger>> loggers_;

  Stage stage_ = Stage::kFit;
  Progress progress_;
  std::unique_ptr<RunMetrics> metrics_;
  config::Node hyperparams_;
  std::optional<fs::Path> searched_run_;
  std::optional<fs::Path> init_from_;
  std::optional<OptimizerChoice> optimizer_choice_;
  std::optional<RunDirectory> run_directory_;
  std::optional<fs::DirectoryLock> lock_;  // of the run's folder, while a stage writes to it
  bool callbacks_are_used_ = false;        // they remember an earlier stage
  int stop_signal_ = 0;
  std::unique_ptr<Run> run_;           // while a stage runs
  std::unique_ptr<FitLoop> fit_loop_;  // while fit runs
};

}  // namespace trainer
