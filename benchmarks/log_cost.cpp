// What log() costs: a step with 11 calls against one with 1, writing to metrics.csv included.
//
//   log_cost [STEPS]      prints ratio, of the times of the two steps, and ns_per_log, of one call

#include <algorithm>

#include "mlp.h"

int main(int argc, char** argv) {
  const int64_t num_steps = argc > 1 ? std::atoll(argv[1]) : 20'000;
  if (num_steps <= benchmark::kWarmupSteps + 1) {
    std::fprintf(stderr, "usage: log_cost [STEPS, more than %d]\n",
                 static_cast<int>(benchmark::kWarmupSteps) + 1);
    return 2;
  }
  torch::set_num_threads(1);
  const auto us_per_step = [&](int64_t logs_per_step) {
    trainer::seed_everything(42);
    benchmark::MLP module(num_steps, logs_per_step);
    benchmark::fit(module, num_steps);
    return module.us_per_step();
  };
  // The fastest of three each, in turn: what else the machine does only ever slows a fit down.
  double one = us_per_step(1), eleven = us_per_step(11);
  for (int i = 0; i < 2; ++i) {
    one = std::min(one, us_per_step(1));
    eleven = std::min(eleven, us_per_step(11));
  }
  benchmark::print("ratio", eleven / one);
  benchmark::print("ns_per_log", 1000 * (eleven - one) / 10);
}
