#pragma once
// A module's parameters and buffers, and its optimizer's state, as named tensors.

#include <functional>

#include <nlohmann/json.hpp>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <trainer/checkpoint/safetensors.h>

namespace trainer {

/// Parameters and buffers under their dotted names, as Python's state_dict() has them. A tensor
/// that several names share (tied weights) comes once, under the first.
safetensors::Tensors module_state(const torch::nn::Module& module);

/// Copies the values into the module, converted to its floating-point formats. Throws
/// CheckpointError that lists every key that is missing, unexpected, or has another shape or kind
/// of dtype, with the shapes; the module is then unchanged.
void load_module_state(torch::nn::Module& module, const safetensors::File& file);

/// Fine-tuning: copies those values whose names and shapes fit, converted to the module's dtypes,
/// and leaves the rest of the module as it was made. Returns a report of what was taken, kept and
/// left aside. Throws CheckpointError, with the names, when nothing fits.
std::string init_module_state(torch::nn::Module& module, const safetensors::File& file);

/// Makes of a parameter and a tensor that an optimizer keeps of it another one, undefined for one
/// that is left out; empty: the same.
using OfState =
    std::function<torch::Tensor(const torch::Tensor& parameter, const torch::Tensor& state)>;

/// The optimizer's tensors as `<parameter name>.<state name>`; parameters that are not the module's
/// are called `optimizer.<index>`. Throws UsageError where the optimizer cannot be saved.
safetensors::Tensors optimizer_tensors(const torch::nn::Module& module,
                                       const torch::optim::Optimizer& optimizer,
                                       const OfState& whole = {});
nlohmann::json optimizer_groups(const torch::optim::Optimizer& optimizer);

/// Throws CheckpointError when the file has state of other parameters.
void load_optimizer(const torch::nn::Module& module, torch::optim::Optimizer& optimizer,
                    const safetensors::File& file, const nlohmann::json& groups,
                    const OfState& own = {});

}  // namespace trainer
