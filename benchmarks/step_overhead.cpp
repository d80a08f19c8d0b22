// What the Trainer adds to a step: the same training by Trainer::fit and by a hand-written LibTorch
// loop.
//
//   step_overhead ours|bare [STEPS] [LOGS]      prints us_per_step and the last loss, which is the
//   same for both. LOGS: values that ours logs in a step, 1 unless given.

#include <string_view>

#include "mlp.h"

namespace {

/// The loop that a researcher would write without a Trainer. The batches are views of data that was
/// put in order beforehand, so that loading costs nothing.
void train_bare(benchmark::MLP& module, int64_t num_steps) {
  auto loader = benchmark::make_loader(num_steps);
  std::vector<torch::Tensor> xs, ys;
  loader.start(/*epoch=*/0);
  while (const auto batch = loader.next()) {
    xs.push_back((*batch)[0]);
    ys.push_back((*batch)[1]);
  }
  const auto x = torch::cat(xs), y = torch::cat(ys);
  xs.clear();
  ys.clear();
  trainer::optim::AdamW optimizer(module.parameters(), trainer::optim::AdamWOptions(1e-3));
  benchmark::StepClock clock(num_steps);
  torch::Tensor loss;
  for (int64_t step = 0; step < num_steps; ++step) {
    clock.tick(step);
    const int64_t first = step * benchmark::kBatchSize;
    loss = module.loss(x.narrow(0, first, benchmark::kBatchSize),
                       y.narrow(0, first, benchmark::kBatchSize));
    loss.backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  benchmark::print("us_per_step", clock.us_per_step());
  benchmark::print("last_loss", loss.item<double>());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view side = argc > 1 ? argv[1] : "";
  const int64_t num_steps = argc > 2 ? std::atoll(argv[2]) : 20'000;
  const int64_t logs_per_step = argc > 3 ? std::atoll(argv[3]) : 1;
  if ((side != "ours" && side != "bare") || num_steps <= benchmark::kWarmupSteps + 1) {
    std::fprintf(stderr, "usage: step_overhead ours|bare [STEPS, more than %d] [LOGS]\n",
                 static_cast<int>(benchmark::kWarmupSteps) + 1);
    return 2;
  }
  torch::set_num_threads(1);
  trainer::seed_everything(42);
  benchmark::MLP module(num_steps, logs_per_step);
  if (side == "bare") {
    train_bare(module, num_steps);
    return 0;
  }
  benchmark::fit(module, num_steps);
  benchmark::print("us_per_step", module.us_per_step());
  benchmark::print("last_loss", module.last_loss());
}
