// How long a training step takes: the `trainer` program with one callback more, alone or under
// mpirun.
//
//   step_time fit --config configs/gpt_bytes.yaml '--trainer.callbacks=[StepTime]' ...
//   mpirun -n 2 step_time fit --config configs/gpt_bytes.yaml
//     '--trainer.callbacks=[{class_path: StepTime, init_args: {trace: trace.json}}]' ...
//
// Rank 0 prints us_per_step, the mean over the steps after the first fifth.

#include <memory>
#include <string>

#include <torch/csrc/autograd/profiler_legacy.h>

#include "mlp.h"

class StepTime : public trainer::Callback {
 public:
  struct Init {
    std::string trace = "";
    static constexpr auto fields() {
      return std::tuple{trainer::config::field<&Init::trace>(
          "File for a Chrome trace of the last step's kernels and messages, which are called "
          "trainer::send and trainer::reduce; of rank 0.")};
    }
  };
  explicit StepTime(Init init) : init_(std::move(init)) {}

  void on_train_batch_start(trainer::Trainer& trainer, trainer::Module&, const trainer::Batch&,
                            int64_t) override {
    const bool is_last = trainer.progress().global_step + 1 == trainer.config().max_steps;
    if (!init_.trace.empty() && is_last && trainer.strategy().is_global_zero()) {
      profile_ = std::make_unique<torch::autograd::profiler::RecordProfile>(init_.trace);
    }
  }

  void on_train_batch_end(trainer::Trainer& trainer, trainer::Module&, const torch::Tensor&,
                          const trainer::Batch&, int64_t) override {
    profile_.reset();
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
  Init init_;
  std::unique_ptr<torch::autograd::profiler::RecordProfile> profile_;
  double first_ = 0, last_ = 0;
  int64_t steps_ = 0, warmup_ = 0;
};

TRAINER_REGISTER_CALLBACK(StepTime);

int main(int argc, char** argv) {
  torch::set_num_threads(1);
  return trainer::cli(argc, argv);
}
