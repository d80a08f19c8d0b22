#pragma once
// Gradient clipping without a host sync: norms and factors stay on the device. The trainer calls it
// for `gradient_clip_val`; call it yourself under manual optimization, or in
// Module::configure_gradient_clipping():
//
//   auto grads = gradients(optimizer);
//   const torch::Tensor norm = total_norm(grads);
//   clip_by_norm(grads, norm, 1.0);
//
// The tensors of one call are dense and on one device; their dtypes may differ.

#include <vector>

#include <torch/optim/optimizer.h>
#include <torch/types.h>

namespace trainer {

/// The gradients of all parameters of an optimizer, in order, without undefined and sparse ones:
/// clipping leaves sparse gradients alone.
std::vector<torch::Tensor> gradients(const torch::optim::Optimizer& optimizer);

/// The L2 norm of each tensor, of which there is at least one: [tensors], float64 where one of them
/// is, else float32. Syncs: no.
torch::Tensor tensor_norms(const std::vector<torch::Tensor>& tensors);

/// The L2 norm over all tensors, a float32 scalar on their device; 0 on the CPU for none. Sums are
/// float32 also for bfloat16 and float16 tensors, float64 for float64 ones. Syncs: no.
torch::Tensor total_norm(const std::vector<torch::Tensor>& tensors);

/// Scales the gradients in place so that their norm, given as `norm`, is at most `max_norm`:
/// factor = min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_. A norm that is not
/// finite makes the gradients NaN or 0, as there. Throws UsageError for a negative max_norm.
/// Syncs: no. Source: Pascanu et al. 2013, arXiv:1211.5063, sec. 3.2.
void clip_by_norm(std::vector<torch::Tensor>& gradients, const torch::Tensor& norm,
                  double max_norm);

/// Clamps every element to [-max_value, max_value] in place. Throws UsageError for a negative
/// max_value. Syncs: no.
void clip_by_value(std::vector<torch::Tensor>& gradients, double max_value);

}  // namespace trainer
