#pragma once
// Private to this folder: the state of torch::optim::LBFGS, which is one for all parameters.

#include <torch/optim/lbfgs.h>

#include <trainer/optim/optimizer_state.h>

namespace trainer::detail {

OptimizerState save_lbfgs(const torch::optim::LBFGS& optimizer);

/// Throws CheckpointError, with nothing changed, when the state does not fit.
void load_lbfgs(torch::optim::LBFGS& optimizer, const OptimizerState& state);

}  // namespace trainer::detail
