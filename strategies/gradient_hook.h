#pragma once
// Gradients of parameters as a backward pass brings them.

#include <functional>
#include <string>

#include <torch/types.h>

namespace trainer {

/// Has LibTorch call `action` when the parameter's gradient of a backward pass is final. A
/// parameter has one such hook, which replaces the one before; an empty action removes it.
void set_gradient_hook(const torch::Tensor& parameter, std::function<void()> action);

/// Throws UsageError that names strategy and parameter where the gradient is sparse.
void check_dense(const char* strategy, const std::string& parameter, const torch::Tensor& gradient);

}  // namespace trainer
