#pragma once
// A callback adds behaviour to a run without touching the module: derive from Callback and override
// the hooks you need. Hooks have Lightning's names, order and meaning; all are empty here.
//
// Callbacks run in the order in which they are listed, before the module's hook of the same name,
// except those whose role() is to monitor or to save: at the end of a training batch, of a training
// epoch and of validation they run last, after the module and after the metrics were written, and
// those that save after those that monitor, so that what they decide and save is complete.

#include <exception>

#include <nlohmann/json.hpp>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <trainer/core/batch.h>
#include <trainer/progress.h>

namespace trainer {

class Module;
class Trainer;

class Callback {
 public:
  using Base = Callback;
  static constexpr const char* kKind = "callback";

  virtual ~Callback() = default;

  virtual void setup(Trainer&, Module&, Stage) {}
  virtual void teardown(Trainer&, Module&, Stage) {}

  virtual void on_fit_start(Trainer&, Module&) {}
  virtual void on_fit_end(Trainer&, Module&) {}
  virtual void on_sanity_check_start(Trainer&, Module&) {}
  virtual void on_sanity_check_end(Trainer&, Module&) {}

  virtual void on_train_start(Trainer&, Module&) {}
  virtual void on_train_end(Trainer&, Module&) {}
  virtual void on_train_epoch_start(Trainer&, Module&) {}
  virtual void on_train_epoch_end(Trainer&, Module&) {}
  virtual void on_train_batch_start(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_train_batch_end(Trainer&, Module&, const torch::Tensor& /*loss*/, const Batch&,
                                  int64_t /*batch_idx*/) {}
  /// Training stops before its epoch is over (max_steps, a signal, should_stop): the state can
  /// still be saved such that a resumed run goes on exactly here. Not in Lightning.
  virtual void on_train_stop(Trainer&, Module&) {}

  virtual void on_before_zero_grad(Trainer&, Module&, torch::optim::Optimizer&) {}
  virtual void on_before_backward(Trainer&, Module&, const torch::Tensor& /*loss*/) {}
  virtual void on_after_backward(Trainer&, Module&) {}
  virtual void on_before_optimizer_step(Trainer&, Module&, torch::optim::Optimizer&) {}

  virtual void on_validation_start(Trainer&, Module&) {}
  virtual void on_validation_end(Trainer&, Module&) {}
  virtual void on_validation_epoch_start(Trainer&, Module&) {}
  virtual void on_validation_epoch_end(Trainer&, Module&) {}
  virtual void on_validation_batch_start(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_validation_batch_end(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}

  virtual void on_test_start(Trainer&, Module&) {}
  virtual void on_test_end(Trainer&, Module&) {}
  virtual void on_test_epoch_start(Trainer&, Module&) {}
  virtual void on_test_epoch_end(Trainer&, Module&) {}
  virtual void on_test_batch_start(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_test_batch_end(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}

  virtual void on_predict_start(Trainer&, Module&) {}
  virtual void on_predict_end(Trainer&, Module&) {}
  virtual void on_predict_epoch_start(Trainer&, Module&) {}
  virtual void on_predict_epoch_end(Trainer&, Module&) {}
  virtual void on_predict_batch_start(Trainer&, Module&, const Batch&, int64_t /*batch_idx*/) {}
  virtual void on_predict_batch_end(Trainer&, Module&, const torch::Tensor& /*prediction*/,
                                    const Batch&, int64_t /*batch_idx*/) {}

  virtual void on_exception(Trainer&, Module&, const std::exception&) {}

  enum class Role { kActs, kMonitors, kSaves };
  /// Where in the order it belongs (see above). Constant for the object's life.
  virtual Role role() const { return Role::kActs; }

  /// Tells callbacks of one class apart in a checkpoint; default: the class name alone.
  virtual std::string state_key() const { return ""; }
  /// Kept in checkpoints; null means nothing to keep.
  virtual nlohmann::json state_dict() const { return nullptr; }
  virtual void load_state_dict(const nlohmann::json&) {}
  /// May add to, and read from, the checkpoint's trainer_state.json under "user".
  virtual void on_save_checkpoint(Trainer&, Module&, nlohmann::json& /*user*/) {}
  virtual void on_load_checkpoint(Trainer&, Module&, const nlohmann::json& /*user*/) {}
};

}  // namespace trainer
