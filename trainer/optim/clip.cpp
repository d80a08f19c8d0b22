#include <trainer/optim/clip.h>

#include <algorithm>

#include <ATen/ops/_foreach_clamp_max.h>
#include <ATen/ops/_foreach_clamp_min.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

bool is_float64(const torch::Tensor& tensor) { return tensor.scalar_type() == torch::kFloat64; }

void check_bound(const char* function, const char* name, double bound) {
  if (!(bound >= 0)) {
    throw UsageError(fmt::format("{}: {} is {}, it must be at least 0.", function, name, bound));
  }
}

}  // namespace

std::vector<torch::Tensor> gradients(const torch::optim::Optimizer& optimizer) {
  std::vector<torch::Tensor> result;
  for (const auto& group : optimizer.param_groups()) {
    for (const torch::Tensor& parameter : group.params()) {
      const torch::Tensor& gradient = parameter.grad();
      if (gradient.defined() && gradient.layout() == torch::kStrided) {
        result.push_back(gradient);
      }
    }
  }
  return result;
}

torch::Tensor tensor_norms(const std::vector<torch::Tensor>& tensors) {
  const torch::NoGradGuard no_grad;
  // The kernel refuses to sum float64 elements in float32.
  const bool wide = std::any_of(tensors.begin(), tensors.end(), is_float64);
  return at::stack(at::_foreach_norm(tensors, 2, wide ? torch::kFloat64 : torch::kFloat32));
}

torch::Tensor total_norm(const std::vector<torch::Tensor>& tensors) {
  const torch::NoGradGuard no_grad;
  if (tensors.empty()) {
    return torch::zeros({}, torch::kFloat32);
  }
  return at::linalg_vector_norm(tensor_norms(tensors), 2).to(torch::kFloat32);
}

void clip_by_norm(std::vector<torch::Tensor>& gradients, const torch::Tensor& norm,
                  double max_norm) {
  check_bound("clip_by_norm", "max_norm", max_norm);
  if (gradients.empty()) {
    return;
  }
  const torch::NoGradGuard no_grad;
  torch::Tensor factor = (max_norm / (norm + 1e-6)).clamp_max(1.0);
  if (std::all_of(gradients.begin(), gradients.end(), is_float64)) {
    factor = factor.to(torch::kFloat64);  // One kernel for all needs one dtype.
  }
  at::_foreach_mul_(gradients, factor);
}

void clip_by_value(std::vector<torch::Tensor>& gradients, double max_value) {
  check_bound("clip_by_value", "max_value", max_value);
  if (gradients.empty()) {
    return;
  }
  const torch::NoGradGuard no_grad;
  at::_foreach_clamp_min_(gradients, -max_value);
  at::_foreach_clamp_max_(gradients, max_value);
}

}  // namespace trainer
