// How long a training step takes: the `trainer` program with one callback more, alone or under
// mpirun.
//
//   step_time fit --config configs/gpt_bytes.yaml '--trainer.callbacks=[StepTime]' ...
//
// Rank 0 prints us_per_step, the mean over the steps after the first fifth.

#include "mlp.h"

class StepTime : public trainer::Callback {
 public:
  void on_train_batch_end(trainer::Trainer& trainer, trainer::Module&, const torch::Tensor&,
                          const trainer::Batch&, int64_t) override {
    last_ = benchmark::seconds(CLOCK_MONOTONIC);
    steps_ = trainer.progress().global_step;
    if (steps_ == trainer.config().max_steps / 5) {
      first_ = last_;
      warmup_ = steps_;
    }
  }

  void on_train_end(trainer::Trainer& trainer, trainer::Module&) override {
    if (trainer.strategy().is_global_zero()) {
      benchmark::print("us_per_step",
                       1e6 * (last_ - first_) / static_cast<double>(steps_ - warmup_));
    }
  }

 private:
  double first_ = 0, last_ = 0;
  int64_t steps_ = 0, warmup_ = 0;
};

TRAINER_REGISTER_CALLBACK(StepTime);

int main(int argc, char** argv) {
  torch::set_num_threads(1);
  return trainer::cli(argc, argv);
}
