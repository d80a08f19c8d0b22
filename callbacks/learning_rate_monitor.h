#pragma once
// Logs the learning rate, so that its schedule can be seen beside the loss: `lr-AdamW` after the
// optimizer's class, or `lr-AdamW/pg1`, `lr-AdamW/pg2` where it has several parameter groups. The
// names are Lightning's.

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>
#include <trainer/metric_collector.h>

namespace trainer {

class LearningRateMonitor : public Callback {
 public:
  static constexpr const char* kDoc =
      "Logs the learning rate, and momentum and weight decay if asked.";

  struct Init {
    std::optional<std::string> logging_interval = std::nullopt;
    bool log_momentum = false;
    bool log_weight_decay = false;

    static constexpr auto fields() {
      using config::field, config::one_of;
      return std::tuple{
          field<&Init::logging_interval>(
              "step: in the row of every step that is logged (log_every_n_steps). epoch: once an "
              "epoch, its first value. Unset: step.",
              one_of("step", "epoch")),
          field<&Init::log_momentum>(
              "Log momentum, or beta1, as lr-<class>-momentum; 0 where the optimizer has none."),
          field<&Init::log_weight_decay>(
              "Log lr-<class>-weight_decay; 0 where the optimizer has none."),
      };
    }
  };

  LearningRateMonitor() : LearningRateMonitor(Init{}) {}
  explicit LearningRateMonitor(Init init) : init_(std::move(init)) {}

  /// Throws UsageError where momentum or weight decay are wanted of an optimizer that does not tell
  /// its options (see trainer/optim/optimizer_state.h).
  void on_train_start(Trainer&, Module&) override;
  void on_train_epoch_start(Trainer&, Module&) override;
  void on_train_batch_start(Trainer&, Module&, const Batch&, int64_t) override;

 private:
  bool logs_epochs() const { return init_.logging_interval == "epoch"; }
  void log(Trainer& trainer, const LogOptions& options);
  void log_options(Trainer& trainer, const LogOptions& options) const;

  Init init_;
  std::vector<std::string> names_;  // of the groups
};

/// The names under which the learning rates of the optimizers' groups are logged: lr-<class>, with
/// -1 for the second of a class, and /pg1 where an optimizer has several groups.
using Optimizers = std::vector<torch::optim::Optimizer*>;
std::vector<std::string> learning_rate_names(const Optimizers& optimizers);

}  // namespace trainer
