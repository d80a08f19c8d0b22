// How much of a training step an example waits for its data: the `trainer` program with one
// callback more, which measures it.
//
//   loader_wait fit --config configs/digits.yaml '--trainer.callbacks=[LoaderWait]'
//   '--trainer.logger=[]'
//
// Prints wait_share, the part of the time from one batch's start to the next that lies between the
// end of one batch and the start of the next, with one thread. That holds the wait, and the loop's
// own work too, so the wait is at most that.

#include "mlp.h"

class LoaderWait : public trainer::Callback {
 public:
  void on_train_batch_start(trainer::Trainer&, trainer::Module&, const trainer::Batch&,
                            int64_t batch_idx) override {
    const double now = benchmark::seconds(CLOCK_MONOTONIC);
    if (batch_idx > 0) {  // between epochs there is validation
      step_s_ += now - last_start_;
      wait_s_ += now - last_end_;
    }
    last_start_ = now;
  }

  void on_train_batch_end(trainer::Trainer&, trainer::Module&, const torch::Tensor&,
                          const trainer::Batch&, int64_t) override {
    last_end_ = benchmark::seconds(CLOCK_MONOTONIC);
  }

  void on_train_end(trainer::Trainer&, trainer::Module&) override {
    benchmark::print("wait_share", wait_s_ / step_s_);
  }

 private:
  double last_start_ = 0, last_end_ = 0;
  double step_s_ = 0, wait_s_ = 0;
};

TRAINER_REGISTER_CALLBACK(LoaderWait);

int main(int argc, char** argv) {
  torch::set_num_threads(1);
  return trainer::cli(argc, argv);
}
