#pragma once
// The settings of a Trainer: what YAML has under `trainer:`, and what a hand-made Trainer takes.
// Names, meaning and defaults are Lightning's where Lightning has them.

#include <concepts>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <trainer/accelerator.h>
#include <trainer/callback.h>
#include <trainer/core/duration.h>
#include <trainer/core/registry.h>
#include <trainer/logger.h>
#include <trainer/strategy.h>

namespace trainer {

class World;

/// A number of batches (an integer) or a fraction of them (a float): 1 is one batch, 1.0 all of
/// them.
using BatchLimit = std::variant<int64_t, double>;
/// The same, or a duration: "30min".
using CheckInterval = std::variant<int64_t, double, Duration>;

/// Batches that make one optimizer step: one number, or from which epoch on which number, as
/// {0: 8, 4: 2}.
class Accumulation {
 public:
  Accumulation(int64_t batches = 1) : by_epoch_{{0, batches}} {}  // NOLINT: implicit as a number
  Accumulation(std::map<int64_t, int64_t> by_epoch)               // NOLINT: or a map
      : by_epoch_(std::move(by_epoch)) {}
  int64_t at(int64_t epoch) const;
  const std::map<int64_t, int64_t>& by_epoch() const { return by_epoch_; }
  bool operator==(const Accumulation&) const = default;

 private:
  std::map<int64_t, int64_t> by_epoch_;
};

/// Batches of each stage that a trial run takes, 0 for a real run; true is 1.
struct FastDevRun {
  int64_t batches = 0;
  FastDevRun() = default;
  template <std::integral T>
  FastDevRun(T n) : batches(static_cast<int64_t>(n)) {}  // NOLINT: implicit as a number or a bool
};

/// Devices that train together on each node, 0 for auto: as many as processes were started there.
struct Devices {
  int64_t count = 0;
  Devices() = default;
  template <std::integral T>
  Devices(T n) : count(static_cast<int64_t>(n)) {}  // NOLINT: implicit as a number
};

/// Blocks that are run again in the backward pass instead of keeping what lies between: all that
/// the module calls through checkpointed() (trainer/activation_checkpointing.h), or those of them
/// whose names match a pattern. Neither: none.
struct ActivationCheckpointing {
  bool all = false;
  std::vector<std::string> patterns = {};
};

namespace config {
template <>
struct Codec<Devices> {
  static std::string type() { return "int or auto"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Devices& out);
  static Node write(const Devices& value);
};
template <>
struct Codec<FastDevRun> {
  static std::string type() { return "int or bool"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, FastDevRun& out);
  static Node write(const FastDevRun& value) { return config::write(value.batches); }
};
template <>
struct Codec<Accumulation> {
  static std::string type() { return "int, or map from epoch to int"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Accumulation& out);
  static Node write(const Accumulation& value);
};
template <>
struct Codec<ActivationCheckpointing> {
  static std::string type() { return "none, all or list of strings"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d,
                   ActivationCheckpointing& out);
  static Node write(const ActivationCheckpointing& value);
};
}  // namespace config

namespace rules {

/// A fraction, which a float is, is at most 1; a count, which an integer is, may be any.
struct FractionOrCount {
  std::string text() const { return "float <= 1.0"; }
  std::string violation(int64_t) const { return ""; }
  std::string violation(double fraction) const;
};

/// The same above 0, or a duration of something that passes within training.
struct Interval {
  std::string text() const { return "> 0; float <= 1.0"; }
  std::string violation(int64_t batches) const;
  std::string violation(double fraction) const;
  std::string violation(const Duration& duration) const;
};

struct Time {
  std::string text() const { return "a time"; }
  std::string violation(const Duration& duration) const;
};

/// No class twice with the same arguments: two loggers would write one file.
struct NoRepeats {
  std::string text() const { return "each once"; }
  template <class Base>
  std::string violation(const std::vector<Spec<Base>>& specs) const {
    for (size_t i = 0; i < specs.size(); ++i) {
      for (size_t k = 0; k < i; ++k) {
        if (specs[i].class_path == specs[k].class_path &&
            config::to_yaml(specs[i].init_args) == config::to_yaml(specs[k].init_args)) {
          return specs[i].class_path + " stands in it twice. List it once.";
        }
      }
    }
    return "";
  }
};

}  // namespace rules

struct TrainerConfig {
  std::optional<int64_t> max_epochs = std::nullopt;
  int64_t max_steps = -1;
  std::optional<Duration> max_time = std::nullopt;
  std::optional<Duration> max_duration = std::nullopt;
  std::optional<int64_t> min_epochs = std::nullopt;
  std::optional<int64_t> min_steps = std::nullopt;
  Spec<Accelerator> accelerator = "auto";
  Devices devices = {};
  int64_t num_nodes = 1;
  std::string precision = "32-true";
  Spec<Strategy> strategy = "auto";
  Accumulation accumulate_grad_batches = 1;
  ActivationCheckpointing activation_checkpointing = {};
  std::optional<double> gradient_clip_val = std::nullopt;
  std::string gradient_clip_algorithm = "norm";
  BatchLimit limit_train_batches = 1.0;
  BatchLimit limit_val_batches = 1.0;
  BatchLimit limit_test_batches = 1.0;
  BatchLimit limit_predict_batches = 1.0;
  BatchLimit overfit_batches = int64_t{0};
  FastDevRun fast_dev_run = {};
  CheckInterval val_check_interval = 1.0;
  std::optional<int64_t> check_val_every_n_epoch = 1;
  int64_t reload_dataloaders_every_n_epochs = 0;
  int64_t num_sanity_val_steps = 2;
  int64_t log_every_n_steps = 50;
  std::vector<Spec<Callback>> callbacks = {};
  std::vector<Spec<Logger>> logger = {"CSVLogger", "JSONLLogger", "TensorBoardLogger"};
  bool enable_checkpointing = true;
  bool enable_progress_bar = true;
  bool enable_model_summary = true;
  bool check_finite_loss = true;
  bool detect_anomaly = false;
  std::string deterministic = "off";
  bool benchmark = false;
  bool inference_mode = true;
  bool barebones = false;
  bool use_distributed_sampler = true;
  bool sync_batchnorm = false;
  double hang_timeout_s = 300;
  std::string default_root_dir = "runs";

  static constexpr auto fields() {
    using config::field, config::at_least, config::one_of;
    using T = TrainerConfig;
    return std::tuple{
        field<&T::max_epochs>(
            "Epochs to train; -1 for no limit. Unset: 1000, or no limit when another one is set.",
            at_least(-1)),
        field<&T::max_steps>("Optimizer steps to train; -1 for no limit.", at_least(-1)),
        field<&T::max_time>("Time to train, as 2h or 00:12:00:00.", rules::Time()),
        field<&T::max_duration>(
            "How long to train at most in any unit: 10ep, 5000step, 1e9sample, 2h; beside the "
            "others."),
        field<&T::min_epochs>("Epochs before which nothing stops training early.", at_least(0)),
        field<&T::min_steps>("Optimizer steps before which nothing stops training early.",
                             at_least(0)),
        field<&T::accelerator>(
            "Kind of device: auto (a GPU where there is one), cpu or cuda (or gpu)."),
        field<&T::devices>(
            "Processes of each node, each with a device of its own: auto is as many as were "
            "started, a number above 1 starts them where this one was started alone."),
        field<&T::num_nodes>(
            "Computers that train together; 1: as many as processes were started on.", at_least(1)),
        field<&T::precision>(
            "Number format: of everything (-true), or of matrix products only (-mixed).",
            one_of("32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", "32",
                   "64", "16", "bf16")),
        field<&T::strategy>(
            "How a step is spread over devices: auto (ddp for several processes), single_device or "
            "ddp."),
        field<&T::accumulate_grad_batches>(
            "Batches whose gradients make one optimizer step; {0: 8, 4: 2} changes it at epoch 4."),
        field<&T::activation_checkpointing>(
            "Blocks that run again in the backward pass, to save memory, of those that the module "
            "calls through trainer::checkpointed(): none, all, or names as [blocks.*]."),
        field<&T::gradient_clip_val>("Largest gradient norm, or element; unset or 0: no clipping.",
                                     at_least(0.0)),
        field<&T::gradient_clip_algorithm>("Clip the global L2 norm, or each element.",
                                           one_of("norm", "value")),
        field<&T::limit_train_batches>(
            "Training batches in an epoch: a count, or a fraction as a float.", at_least(0),
            rules::FractionOrCount()),
        field<&T::limit_val_batches>("Validation batches: a count, or a fraction as a float.",
                                     at_least(0), rules::FractionOrCount()),
        field<&T::limit_test_batches>("Test batches: a count, or a fraction as a float.",
                                      at_least(0), rules::FractionOrCount()),
        field<&T::limit_predict_batches>("Prediction batches: a count, or a fraction as a float.",
                                         at_least(0), rules::FractionOrCount()),
        field<&T::overfit_batches>(
            "Train and validate on so many batches, or this fraction, in the data's own order; 0 "
            "for all data.",
            at_least(0), rules::FractionOrCount()),
        field<&T::fast_dev_run>(
            "Try everything once: so many batches of each stage (true: 1), one epoch, nothing "
            "written; 0 for a real run."),
        field<&T::val_check_interval>(
            "Validate every so many batches of an epoch, after this fraction of one, or every "
            "duration of training (30min, 500step); at the next optimizer step's end.",
            rules::Interval()),
        field<&T::check_val_every_n_epoch>(
            "Validate in every so many epochs; null: val_check_interval counts across epochs.",
            at_least(1)),
        field<&T::reload_dataloaders_every_n_epochs>(
            "Ask the data module for new loaders every so many epochs; 0 for never.", at_least(0)),
        field<&T::num_sanity_val_steps>(
            "Validation batches to try before training; -1 for all, 0 for none.", at_least(-1)),
        field<&T::log_every_n_steps>(
            "Write step metrics every so many optimizer steps; 0 for never.", at_least(0)),
        field<&T::callbacks>("Callbacks, in the order in which they run.", rules::NoRepeats()),
        field<&T::logger>("Where metrics are written; [] for nowhere.", rules::NoRepeats()),
        field<&T::enable_checkpointing>("Add a ModelCheckpoint where callbacks has none."),
        field<&T::enable_progress_bar>("Add a ProgressBar where callbacks has none."),
        field<&T::enable_model_summary>("Add a ModelSummary where callbacks has none."),
        field<&T::check_finite_loss>("Stop with an error when the loss is NaN or infinite."),
        field<&T::detect_anomaly>(
            "Let autograd name the forward operation of a gradient that is NaN; slow."),
        field<&T::deterministic>(
            "on: only deterministic kernels, an error where there is none; warn: a warning.",
            one_of("off", "warn", "on")),
        field<&T::benchmark>("Let cuDNN time its algorithms and take the fastest."),
        field<&T::inference_mode>(
            "validate, test and predict under inference mode instead of no_grad."),
        field<&T::barebones>("No logger, callback or sanity check of the Trainer's own."),
        field<&T::use_distributed_sampler>(
            "Let processes share the samples of a loader; false where each has data of its own."),
        field<&T::sync_batchnorm>(
            "Let batch norm layers take their statistics over the batches of all processes."),
        field<&T::hang_timeout_s>(
            "Seconds without a batch or a collective on any process after which several processes "
            "are taken for hung and ended; 0 for never.",
            at_least(0.0)),
        field<&T::default_root_dir>("Folder of the runs; each run gets version_N in it."),
    };
  }

  /// Throws ConfigError for settings that do not go together.
  void validate() const;
  /// Throws ConfigError where `devices` or `num_nodes` name others than the processes of `world`.
  void check_world(const World& world) const;
  bool overfits() const {
    return std::visit([](auto limit) { return limit > 0; }, overfit_batches);
  }
  /// What fast_dev_run, barebones and overfit_batches mean for the other settings.
  TrainerConfig with_modes_applied() const;
};

/// Stands for "until the data ends" where nobody knows how many batches there are.
inline constexpr int64_t kAllBatches = std::numeric_limits<int64_t>::max();

/// How many of `num_batches` (kUnknownSize for a stream) a limit leaves; a fraction is rounded
/// down. Throws ConfigError when a fraction above 0 leaves none, and for a fraction of an unknown
/// number.
int64_t limited_batches(const BatchLimit& limit, int64_t num_batches, const char* name);

}  // namespace trainer
