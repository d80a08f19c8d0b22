// How long a user waits for the first training step: the `trainer` program with one callback more,
// which stops it there.
//
//   cold_start fit --config configs/digits.yaml '--trainer.callbacks=[StopAtFirstStep]'      prints
//   start_s

#include "mlp.h"

class StopAtFirstStep : public trainer::Callback {
 public:
  void on_train_batch_start(trainer::Trainer& trainer, trainer::Module&, const trainer::Batch&,
                            int64_t batch_idx) override {
    if (batch_idx == 0) {
      benchmark::print_start_time();
    }
    trainer.should_stop = true;
  }
};

TRAINER_REGISTER_CALLBACK(StopAtFirstStep);

int main(int argc, char** argv) { return trainer::cli(argc, argv); }
