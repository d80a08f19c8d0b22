#pragma once
// Ends a fit as Ctrl-C would.

#include <csignal>
#include <cstdint>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>
#include <trainer/trainer.h>

namespace trainer::test {

/// Raises SIGINT once, after so many optimizer steps or batches, or within the next validation
/// after so many steps; 0 for never.
class RaiseAt : public Callback {
 public:
  struct Init {
    int64_t steps = 0;
    int64_t batches = 0;
    int64_t validation_after = 0;
    static constexpr auto fields() {
      return std::tuple{config::field<&Init::steps>("Optimizer steps."),
                        config::field<&Init::batches>("Batches."),
                        config::field<&Init::validation_after>("Optimizer steps before it.")};
    }
  };
  explicit RaiseAt(Init init) : init_(init) {}
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                          int64_t) override {
    const Progress& progress = trainer.progress();
    const bool is_due = (init_.steps > 0 && progress.global_step == init_.steps) ||
                        (init_.batches > 0 && progress.batches == init_.batches);
    raise_if(is_due);
  }
  void on_validation_batch_end(Trainer& trainer, Module&, const Batch&,
                               int64_t batch_idx) override {
    raise_if(init_.validation_after > 0 && batch_idx == 1 &&
             trainer.progress().global_step >= init_.validation_after);
  }

 private:
  void raise_if(bool is_due) {
    if (is_due && !raised_) {
      raised_ = true;  // a second one would end the process
      std::raise(SIGINT);
    }
  }

  Init init_;
  bool raised_ = false;
};

}  // namespace trainer::test
