#pragma once
// Private to this folder: the options of LibTorch's optimizers, which ours share.

#include <vector>

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <trainer/optim/state_layout.h>

namespace trainer::detail {

std::vector<OptionField> option_fields(torch::optim::AdagradOptions& options);
std::vector<OptionField> option_fields(torch::optim::AdamOptions& options);
std::vector<OptionField> option_fields(torch::optim::AdamWOptions& options);
std::vector<OptionField> option_fields(torch::optim::LBFGSOptions& options);
std::vector<OptionField> option_fields(torch::optim::RMSpropOptions& options);
std::vector<OptionField> option_fields(torch::optim::SGDOptions& options);

}  // namespace trainer::detail
