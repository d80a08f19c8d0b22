#pragma once
// Two optimizers that take turns.

#include <memory>
#include <utility>

#include <trainer/api.h>

namespace trainer::test {

/// Two steps of the first layer, one of the second, whose schedule counts its own steps.
inline OptimizerConfig in_turn(torch::nn::Linear& first, torch::nn::Linear& second) {
  auto momentum =
      std::make_unique<optim::SGD>(second->parameters(), optim::SGDOptions(0.1).momentum(0.9));
  auto halving = std::make_unique<StepLR>(*momentum, /*step_size=*/2, /*gamma=*/0.5);
  return {OptimizerConfig(std::make_unique<optim::AdamW>(first->parameters())).frequency(2),
          OptimizerConfig(std::move(momentum),
                          {.scheduler = std::move(halving), .interval = Interval::kStep})
              .frequency(1)};
}

}  // namespace trainer::test
