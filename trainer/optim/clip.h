#pragma once
// Gradient clipping without a host sync: norms and factors stay on the device.

#include <vector>

#include <torch/optim/optimizer.h>
#include <torch/types.h>

namespace trainer {

/// The defined gradients of all parameters of an optimizer, in order.
std::vector<torch::Tensor> gradients(const torch::optim::Optimizer& optimizer);

/// The L2 norm over all tensors, a float32 scalar on their device; 0 for none. Syncs: no.
torch::Tensor total_norm(const std::vector<torch::Tensor>& tensors);

/// Scales the gradients in place so that their norm, given as `norm`, is at most `max_norm`:
/// factor = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. Syncs: no.
/// Source: Pascanu et al. 2013, arXiv:1211.5063, sec. 3.2.
void clip_by_norm(std::vector<torch::Tensor>& gradients, const torch::Tensor& norm, double max_norm);

/// Clamps every element to [-max_value, max_value] in place. Syncs: no.
void clip_by_value(std::vector<torch::Tensor>& gradients, double max_value);

}  // namespace trainer
