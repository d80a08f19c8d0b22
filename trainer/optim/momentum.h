#pragma once
// The momentum of any optimizer, for schedules that change it.

#include <torch/optim/optimizer.h>

namespace trainer {

/// Options of an optimizer of your own derive from it too, where they have a momentum or a first
/// beta that a schedule may change.
class MomentumOptions {
 public:
  virtual ~MomentumOptions() = default;
  virtual void set_momentum(double momentum) = 0;
};

/// Whether the options have a momentum or a first beta: those of SGD, RMSprop, Adam, AdamW and
/// MomentumOptions do.
bool has_momentum(const torch::optim::OptimizerOptions& options);

/// Sets the momentum, or the first beta. Throws UsageError where there is none.
void set_momentum(torch::optim::OptimizerOptions& options, double momentum);

}  // namespace trainer
