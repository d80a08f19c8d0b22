// How long a user waits for the first training step on the digits: the `trainer` program with one
// callback more, which stops it there, and a program that a researcher would write for this one
// model.
//
//   cold_start fit --config configs/digits.yaml '--trainer.callbacks=[StopAtFirstStep]'
//   cold_start bare
//
// Both print start_s. The second reads the same file and makes the same weights, optimizer and
// first batch, and does nothing else.

#include <string_view>

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

namespace {

void start_bare() {
  torch::manual_seed(42);
  const auto table = trainer::data::read_csv("data/digits.csv.gz");
  torch::nn::Sequential module(torch::nn::Linear(64, 512), torch::nn::ReLU(),
                               torch::nn::Linear(512, 10));
  torch::optim::AdamW optimizer(module->parameters(), torch::optim::AdamWOptions(2e-3));
  const auto rows = table.index_select(0, torch::randperm(table.size(0)).narrow(0, 0, 32));
  const auto x = rows.narrow(1, 0, 64) / 16.0, y = rows.select(1, 64).to(torch::kInt64);
  benchmark::print_start_time();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "bare") {
    start_bare();
    return 0;
  }
  return trainer::cli(argc, argv);
}
