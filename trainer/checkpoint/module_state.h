#pragma once
// A module's parameters and buffers, and its optimizer's state, as named tensors.

#include <functional>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/checkpoint/saved_tensors.h>
#include <trainer/core/segment.h>

namespace trainer {

/// Parameters and buffers under their dotted names, as Python's state_dict() has them. A tensor
/// that several names share (tied weights) comes once, under the first.
safetensors::Tensors module_state(const torch::nn::Module& module);

/// Which segment of a parameter this rank holds, in place of the parameter; nothing for one that is
/// whole. A null function: all are.
using SegmentOf = std::function<std::optional<Segment>(const torch::Tensor& parameter)>;

/// Tensors of which some are this rank's segments of larger ones.
struct StatePart {
  safetensors::Tensors tensors;
  std::map<std::string, Segment> segments;  // of those of the tensors
};

/// module_state() of a module whose parameters are segments.
StatePart module_part(const torch::nn::Module& module, const SegmentOf& segment_of = {});

/// Throws CheckpointError that lists every key that is missing, unexpected, or has another shape or
/// kind of dtype, with the shapes. Reads no values.
void check_module_state(const StatePart& own, const SavedTensors& saved);

/// Copies the values into the module, converted to its floating-point formats. Throws as
/// check_module_state(); the module is then unchanged. Of parameters that are segments it reads
/// theirs alone.
void load_module_state(torch::nn::Module& module, const SavedTensors& saved,
                       const SegmentOf& segment_of = {});

/// Fine-tuning: copies those values whose names and shapes fit, converted to the module's dtypes,
/// and leaves the rest of the module as it was made. Returns a report of what was taken, kept and
/// left aside. Throws CheckpointError, with the names, when nothing fits.
std::string init_module_state(torch::nn::Module& module, const SavedTensors& saved);

/// The optimizer's tensors as `<parameter name>.<state name>`; parameters that are not the module's
/// are called `optimizer.<index>`. What it keeps of a parameter that is a segment is the same
/// segment of what it would keep of the whole, apart from scalars (a step count). Throws UsageError
/// where it is not, and where the optimizer cannot be saved.
StatePart optimizer_part(const torch::nn::Module& module, const torch::optim::Optimizer& optimizer,
                         const SegmentOf& segment_of = {});
nlohmann::json optimizer_groups(const torch::optim::Optimizer& optimizer);

/// Of parameters that are segments it reads theirs alone. Throws CheckpointError when there is
/// state of other parameters, or of another shape.
void load_optimizer(const torch::nn::Module& module, torch::optim::Optimizer& optimizer,
                    const SavedTensors& saved, const nlohmann::json& groups,
                    const SegmentOf& segment_of = {});

}  // namespace trainer
