#pragma once
// Ends a fit as Ctrl-C would.

#include <csignal>
#include <cstdint>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>
#include <trainer/trainer.h>

namespace trainer::test {

/// Raises SIGINT once, after so many optimizer steps or batches; 0 for never.
class RaiseAt : public Callback {
 public:
  struct Init {
    int64_t steps = 0;
    int64_t batches = 0;
    static constexpr auto fields() {
      return std::tuple{config::field<&Init::steps>("Optimizer steps."),
                        config::field<&Init::batches>("Batches.")};
    }
  };
  explicit RaiseAt(Init init) : init_(init) {}
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                          int64_t) override {
    const Progress& progress = trainer.progress();
    const bool is_due = (init_.steps > 0 && progress.global_step == init_.steps) ||
                        (init_.batches > 0 && progress.batches == init_.batches);
    if (is_due && !raised_) {
      raised_ = true;  // a second one would end the process
      std::raise(SIGINT);
    }
  }

 private:
  Init init_;
  bool raised_ = false;
};

}  // namespace trainer::test
