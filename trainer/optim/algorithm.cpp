#include <trainer/optim/algorithm.h>

#include <algorithm>
#include <string>

#include <ATen/ops/stack.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer::optim::detail {
namespace {

/// "[2, 3] with strides [3, 1], Float on cpu".
std::string describe(const Tensor& tensor) {
  return fmt::format("[{}] with strides [{}], {} on {}", fmt::join(tensor.sizes(), ", "),
                     fmt::join(tensor.strides(), ", "), c10::toString(tensor.scalar_type()),
                     tensor.device().str());
}

std::unique_ptr<ParamState> make_state(const Algorithm& algorithm, const Tensor& parameter) {
  if (algorithm.fused && !parameter.is_non_overlapping_and_dense()) {
    throw UsageError(fmt::format(
        "{}: the memory of a parameter has gaps, which the fused kernel would overwrite: "
        "{}.\n  Make it from tensor.contiguous().",
        algorithm.name, describe(parameter)));
  }
  auto state = std::make_unique<ParamState>();
  if (algorithm.steps == Steps::kOnDevice) {
    state->step = torch::zeros({}, parameter.options().dtype(torch::kFloat32).requires_grad(false));
  }
  return state;
}

/// The gradient with the parameter's strides: the kernel walks through the memory of both and looks
/// at no strides.
Tensor like_parameter(const Algorithm& algorithm, const Tensor& gradient, const Tensor& parameter) {
  if (gradient.layout() != torch::kStrided) {
    throw UsageError(
        fmt::format("{}: the gradient of a parameter of shape [{}] is sparse.\n"
                    "  Make the embedding without sparse(true), or use torch::optim::SGD.",
                    algorithm.name, fmt::join(parameter.sizes(), ", ")));
  }
  if (gradient.sizes() != parameter.sizes()) {
    throw UsageError(fmt::format(
        "{}: the gradient of a parameter of shape [{}] has shape [{}].\n"
        "  Give it a gradient of its own shape.",
        algorithm.name, fmt::join(parameter.sizes(), ", "), fmt::join(gradient.sizes(), ", ")));
  }
  if (gradient.strides() == parameter.strides()) {
    return gradient;
  }
  // Only the strides of dims of size 1 differ: no copy.
  if (gradient.is_contiguous() && parameter.is_contiguous()) {
    return gradient.as_strided(parameter.sizes(), parameter.strides());
  }
  return torch::empty_like(parameter).copy_(gradient);
}

}  // namespace

void TensorLists::add(const Algorithm& algorithm, const Tensor& parameter) {
  const size_t i = gradients.size();
  if (i == parameters.size() || !parameters[i].is_same(parameter)) {
    parameters.resize(i);
    parameters.push_back(parameter);
    linked_ = false;
  }
  gradients.push_back(like_parameter(algorithm, parameter.grad(), parameter));
}

void TensorLists::begin_step(const Algorithm& algorithm, const Options& options, States& states,
                             const Tensor& skip_if) {
  link(algorithm, options, states);
  check_layouts(algorithm);
  found_inf = skip_if.defined() ? std::optional(skip_if) : std::nullopt;
  if (algorithm.steps == Steps::kOnDevice) {
    counters_.add_(found_inf ? one_ - *found_inf : one_);
  } else if (algorithm.steps == Steps::kOnHost) {
    for (ParamState* own : param_states) {
      ++own->step_on_host;
    }
  }
}

void TensorLists::end_step() {
  gradients.clear();
  fresh.clear();
  found_inf.reset();
}

void TensorLists::link(const Algorithm& algorithm, const Options& options, States& states) {
  std::array<bool, kMaxStateTensors> needed = {};
  for (size_t k = 0; k < algorithm.state.size(); ++k) {
    needed[k] = algorithm.state[k].needed == nullptr || algorithm.state[k].needed(options);
  }
  if (linked_ && parameters.size() == gradients.size() && needed == needed_) {
    return;
  }
  linked_ = false;
  needed_ = needed;
  parameters.resize(gradients.size());
  param_states.clear();
  steps.clear();
  fresh.clear();
  for (Tensors& tensors : state) {
    tensors.clear();
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    auto& entry = states[parameters[i].unsafeGetTensorImpl()];
    if (!entry) {
      entry = make_state(algorithm, parameters[i]);
    }
    auto& own = static_cast<ParamState&>(*entry);
    param_states.push_back(&own);
    bool made = false;
    for (size_t k = 0; k < algorithm.state.size(); ++k) {
      if (!needed_[k]) {
        continue;
      }
      Tensor& tensor = own.tensors[k];
      if (!tensor.defined()) {
        const auto& make = algorithm.state[k].make;
        tensor = make ? make(parameters[i], options) : torch::zeros_like(parameters[i]);
        made = true;
      }
      state[k].push_back(tensor);
    }
    if (made) {
      fresh.push_back(i);
    }
  }
  if (algorithm.steps == Steps::kOnDevice) {
    for (const ParamState* own : param_states) {
      steps.push_back(own->step);
    }
    counters_ = at::stack(steps);
    steps = counters_.unbind();
    for (size_t i = 0; i < steps.size(); ++i) {
      param_states[i]->step = steps[i];
    }
    one_ = torch::ones({}, counters_.options());
  }
  linked_ = true;
}

void TensorLists::check_layouts(const Algorithm& algorithm) const {
  const auto made =
      std::find_if(state.begin(), state.end(), [](const Tensors& list) { return !list.empty(); });
  if (made == state.end()) {
    return;
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& now = parameters[i];
    const Tensor& then = (*made)[i];
    if (now.sizes() != then.sizes() || now.strides() != then.strides() ||
        now.scalar_type() != then.scalar_type() || now.device() != then.device()) {
      throw UsageError(
          fmt::format("{}: a parameter was {} at its first step and is {} now.\n"
                      "  Move or convert the module before the first step.",
                      algorithm.name, describe(then), describe(now)));
    }
  }
}

void check_at_least_0(const char* optimizer,
                      std::initializer_list<std::pair<const char*, double>> values) {
  for (const auto& [name, value] : values) {
    if (!(value >= 0)) {
      throw UsageError(fmt::format("{}: {} is {}, it must be at least 0.", optimizer, name, value));
    }
  }
}

void check_betas(const char* optimizer, const std::tuple<double, double>& betas) {
  const auto [beta1, beta2] = betas;
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) {
    throw UsageError(fmt::format("{}: betas are ({}, {}), both must be at least 0 and below 1.",
                                 optimizer, beta1, beta2));
  }
}

}  // namespace trainer::optim::detail
