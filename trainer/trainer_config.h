#pragma once
// The settings of a Trainer: what YAML has under `trainer:`, and what a hand-made Trainer takes.
// Names, meaning and defaults are Lightning's where Lightning has them.

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <trainer/accelerator.h>
#include <trainer/callback.h>
#include <trainer/core/registry.h>
#include <trainer/logger.h>
#include <trainer/strategy.h>

namespace trainer {

/// A number of batches (an integer) or a fraction of them (a float): 1 is one batch, 1.0 all of
/// them.
using BatchLimit = std::variant<int64_t, double>;

struct TrainerConfig {
  std::optional<int64_t> max_epochs = std::nullopt;
  int64_t max_steps = -1;
  Spec<Accelerator> accelerator = "auto";
  std::string precision = "32-true";
  Spec<Strategy> strategy = "auto";
  int64_t accumulate_grad_batches = 1;
  std::optional<double> gradient_clip_val = std::nullopt;
  std::string gradient_clip_algorithm = "norm";
  BatchLimit limit_train_batches = 1.0;
  BatchLimit limit_val_batches = 1.0;
  BatchLimit limit_test_batches = 1.0;
  BatchLimit limit_predict_batches = 1.0;
  BatchLimit val_check_interval = 1.0;
  int64_t check_val_every_n_epoch = 1;
  int64_t num_sanity_val_steps = 2;
  int64_t log_every_n_steps = 50;
  std::vector<Spec<Callback>> callbacks = {};
  std::vector<Spec<Logger>> logger = {"CSVLogger", "JSONLLogger", "TensorBoardLogger"};
  bool enable_checkpointing = true;
  bool enable_progress_bar = true;
  bool enable_model_summary = true;
  bool check_finite_loss = true;
  std::string default_root_dir = "runs";

  static constexpr auto fields() {
    using config::field, config::at_least, config::greater_than, config::one_of;
    using T = TrainerConfig;
    return std::tuple{
        field<&T::max_epochs>(
            "Epochs to train; -1 for no limit. Unset: 1000, or no limit when max_steps is set.",
            at_least(-1)),
        field<&T::max_steps>("Optimizer steps to train; -1 for no limit.", at_least(-1)),
        field<&T::accelerator>("Kind of device: auto or cpu."),
        field<&T::precision>("Number format.", one_of("32-true", "bf16-mixed")),
        field<&T::strategy>("How a step is spread over devices: auto or single_device."),
        field<&T::accumulate_grad_batches>("Batches whose gradients make one optimizer step.",
                                           at_least(1)),
        field<&T::gradient_clip_val>("Largest gradient norm, or element; unset: no clipping.",
                                     greater_than(0.0)),
        field<&T::gradient_clip_algorithm>("Clip the global L2 norm, or each element.",
                                           one_of("norm", "value")),
        field<&T::limit_train_batches>(
            "Training batches in an epoch: a count, or a fraction as a float.", at_least(0)),
        field<&T::limit_val_batches>("Validation batches: a count, or a fraction as a float.",
                                     at_least(0)),
        field<&T::limit_test_batches>("Test batches: a count, or a fraction as a float.",
                                      at_least(0)),
        field<&T::limit_predict_batches>("Prediction batches: a count, or a fraction as a float.",
                                         at_least(0)),
        field<&T::val_check_interval>("Validate every so many batches, or after this fraction of "
                                      "an epoch; at the next optimizer step's end.",
                                      greater_than(0)),
        field<&T::check_val_every_n_epoch>("Validate in every so many epochs.", at_least(1)),
        field<&T::num_sanity_val_steps>(
            "Validation batches to try before training; -1 for all, 0 for none.", at_least(-1)),
        field<&T::log_every_n_steps>(
            "Write step metrics every so many optimizer steps; 0 for never.", at_least(0)),
        field<&T::callbacks>("Callbacks, in the order in which they run."),
        field<&T::logger>("Where metrics are written; [] for nowhere."),
        field<&T::enable_checkpointing>("Add a ModelCheckpoint where callbacks has none."),
        field<&T::enable_progress_bar>("Add a ProgressBar where callbacks has none."),
        field<&T::enable_model_summary>("Add a ModelSummary where callbacks has none."),
        field<&T::check_finite_loss>("Stop with an error when the loss is NaN or infinite."),
        field<&T::default_root_dir>("Folder of the runs; each run gets version_N in it."),
    };
  }

  /// Fractions lie in 0 to 1. Throws ConfigError.
  void validate() const;
};

/// How many of `num_batches` a limit leaves; a fraction is rounded down. Throws ConfigError when a
/// fraction above 0 leaves none.
int64_t limited_batches(const BatchLimit& limit, int64_t num_batches, const char* name);

}  // namespace trainer
