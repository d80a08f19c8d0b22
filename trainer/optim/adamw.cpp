#include <trainer/optim/adamw.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/state_layout.h>

namespace trainer::optim {
namespace {

using torch::Tensor;
using States = ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>>;

struct ParamState : public torch::optim::OptimizerCloneableParamState<ParamState> {
  Tensor step;  ///< float32 scalar on the parameter's device, as the kernel wants it.
  Tensor exp_avg;
  Tensor exp_avg_sq;
  Tensor max_exp_avg_sq;  ///< Undefined without amsgrad.
};

constexpr detail::StateLayout kLayout = {
    .make_state = []() -> std::unique_ptr<torch::optim::OptimizerParamState> {
      return std::make_unique<ParamState>();
    },
    .state_fields =
        [](torch::optim::OptimizerParamState& base, const torch::optim::OptimizerOptions& options) {
          auto& state = static_cast<ParamState&>(base);
          return std::vector<detail::StateField>{
              {.name = "step", .value = &state.step, .scalar = true},
              {.name = "exp_avg", .value = &state.exp_avg},
              {.name = "exp_avg_sq", .value = &state.exp_avg_sq},
              {.name = "max_exp_avg_sq",
               .value = &state.max_exp_avg_sq,
               .needed = static_cast<const AdamWOptions&>(options).amsgrad()}};
        },
    .option_fields =
        [](torch::optim::OptimizerOptions& base) {
          auto& options = static_cast<AdamWOptions&>(base);
          return std::vector<detail::OptionField>{{"lr", &options.lr()},
                                                  {"betas", &options.betas()},
                                                  {"eps", &options.eps()},
                                                  {"weight_decay", &options.weight_decay()},
                                                  {"amsgrad", &options.amsgrad()}};
        }};

/// The options of a group. LibTorch keeps the optimizer's defaults for a group that comes with
/// options of another class, and set_options() takes any.
const AdamWOptions& options_of(const torch::optim::OptimizerParamGroup& group) {
  const auto* options = dynamic_cast<const AdamWOptions*>(&group.options());
  if (options == nullptr) {
    throw UsageError(
        "AdamW: a parameter group has the options of another optimizer.\n"
        "  Give it trainer::optim::AdamWOptions, or none for the defaults.");
  }
  return *options;
}

void check_options(const AdamWOptions& options) {
  const auto [beta1, beta2] = options.betas();
  for (const auto& [name, value] : {std::pair("lr", options.lr()), std::pair("eps", options.eps()),
                                    std::pair("weight_decay", options.weight_decay())}) {
    if (!(value >= 0)) {
      throw UsageError(fmt::format("AdamW: {} is {}, it must be at least 0.", name, value));
    }
  }
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1)) {
    throw UsageError(fmt::format("AdamW: betas are ({}, {}), both must be at least 0 and below 1.",
                                 beta1, beta2));
  }
}

/// "[2, 3] with strides [3, 1], Float on cpu".
std::string describe(const Tensor& tensor) {
  return fmt::format("[{}] with strides [{}], {} on {}", fmt::join(tensor.sizes(), ", "),
                     fmt::join(tensor.strides(), ", "), c10::toString(tensor.scalar_type()),
                     tensor.device().str());
}

std::unique_ptr<torch::optim::OptimizerParamState> make_state(const Tensor& parameter) {
  if (!parameter.is_non_overlapping_and_dense()) {
    throw UsageError(fmt::format(
        "AdamW: the memory of a parameter has gaps, which the fused kernel would overwrite: "
        "{}.\n  Make it from tensor.contiguous().",
        describe(parameter)));
  }
  auto state = std::make_unique<ParamState>();
  state->step = torch::zeros({}, parameter.options().dtype(torch::kFloat32).requires_grad(false));
  state->exp_avg = torch::zeros_like(parameter);
  state->exp_avg_sq = torch::zeros_like(parameter);
  return state;
}

/// The gradient with the parameter's strides: the kernel walks through the memory of both and looks
/// at no strides.
Tensor like_parameter(const Tensor& gradient, const Tensor& parameter) {
  if (gradient.layout() != torch::kStrided) {
    throw UsageError(
        fmt::format("AdamW: the gradient of a parameter of shape [{}] is sparse.\n"
                    "  Make the embedding without sparse(true), or use torch::optim::SGD.",
                    fmt::join(parameter.sizes(), ", ")));
  }
  if (gradient.sizes() != parameter.sizes()) {
    throw UsageError(
        fmt::format("AdamW: the gradient of a parameter of shape [{}] has shape [{}].\n"
                    "  Give it a gradient of its own shape.",
                    fmt::join(parameter.sizes(), ", "), fmt::join(gradient.sizes(), ", ")));
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

/// Guards the kernel, which trusts its lists, against parameters that were converted after their
/// first step.
void check_same_layout(const Tensor& parameter, const Tensor& exp_avg) {
  if (parameter.sizes() != exp_avg.sizes() || parameter.strides() != exp_avg.strides() ||
      parameter.scalar_type() != exp_avg.scalar_type() || parameter.device() != exp_avg.device()) {
    throw UsageError(
        fmt::format("AdamW: a parameter was {} at its first step and is {} now.\n"
                    "  Move or convert the module before the first step.",
                    describe(exp_avg), describe(parameter)));
  }
}

}  // namespace

/// The lists of one call of the kernel. They are kept from step to step for as long as the same
/// parameters have gradients; only the gradients themselves are let go.
struct AdamW::FusedCall {
  torch::Device device;
  torch::ScalarType dtype;
  std::vector<Tensor> parameters = {};
  std::vector<Tensor> gradients = {};
  std::vector<Tensor> exp_avgs = {};
  std::vector<Tensor> exp_avg_sqs = {};
  std::vector<Tensor> max_exp_avg_sqs = {};  ///< Empty without amsgrad.
  std::vector<Tensor> steps = {};            ///< Views of `counters`.
  Tensor counters = {};  ///< [num_parameters] float32: counts the steps of all in one operation.
  Tensor one = {};  ///< Added to `counters`; the number 1 would become a tensor anew in every step.
  bool linked = false;  ///< Whether the state's lists belong to `parameters`.

  void add(const Tensor& parameter) {
    const size_t i = gradients.size();
    if (i == parameters.size() || !parameters[i].is_same(parameter)) {
      parameters.resize(i);
      parameters.push_back(parameter);
      linked = false;
    }
    gradients.push_back(like_parameter(parameter.grad(), parameter));
  }

  /// Collects the state of the parameters that have a gradient now; makes it where there is none.
  void link(States& states, bool amsgrad) {
    if (linked && parameters.size() == gradients.size() && max_exp_avg_sqs.empty() != amsgrad) {
      return;
    }
    linked = false;
    parameters.resize(gradients.size());
    exp_avgs.clear();
    exp_avg_sqs.clear();
    max_exp_avg_sqs.clear();
    steps.clear();
    for (const Tensor& parameter : parameters) {
      auto& state = states[parameter.unsafeGetTensorImpl()];
      if (!state) {
        state = make_state(parameter);
      }
      auto& fields = static_cast<ParamState&>(*state);
      exp_avgs.push_back(fields.exp_avg);
      exp_avg_sqs.push_back(fields.exp_avg_sq);
      if (amsgrad) {
        if (!fields.max_exp_avg_sq.defined()) {
          fields.max_exp_avg_sq = torch::zeros_like(parameter);
        }
        max_exp_avg_sqs.push_back(fields.max_exp_avg_sq);
      }
      steps.push_back(fields.step);
    }
    counters = at::stack(steps);
    steps = counters.unbind();
    for (size_t i = 0; i < steps.size(); ++i) {
      static_cast<ParamState&>(*states[parameters[i].unsafeGetTensorImpl()]).step = steps[i];
    }
    one = torch::ones({}, counters.options());
    linked = true;
  }

  void run(const AdamWOptions& options) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      check_same_layout(parameters[i], exp_avgs[i]);
    }
    counters.add_(one);
    const auto [beta1, beta2] = options.betas();
    at::_fused_adamw_(parameters, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps,
                      options.lr(), beta1, beta2, options.weight_decay(), options.eps(),
                      options.amsgrad(), /*maximize=*/false);
  }
};

AdamW::AdamW(std::vector<Tensor> parameters, AdamWOptions options)
    : AdamW({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

AdamW::AdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups, AdamWOptions defaults)
    : Optimizer(groups, std::make_unique<AdamWOptions>(defaults)) {
  check_options(defaults);
  for (const auto& group : groups) {
    if (group.has_options()) {
      check_options(options_of(group));
    }
  }
}

AdamW::~AdamW() = default;

Tensor AdamW::step(LossClosure closure) {
  Tensor loss;
  if (closure) {
    const torch::AutoGradMode enable_grad(true);
    loss = closure();
  }
  const torch::NoGradGuard no_grad;
  calls_.resize(param_groups_.size());
  for (size_t i = 0; i < param_groups_.size(); ++i) {
    const AdamWOptions& options = options_of(param_groups_[i]);
    collect(param_groups_[i].params(), calls_[i]);
    for (FusedCall& call : calls_[i]) {
      if (!call.gradients.empty()) {
        call.link(state_, options.amsgrad());
        call.run(options);
        call.gradients.clear();
      }
    }
  }
  return loss;
}

void AdamW::collect(const std::vector<Tensor>& parameters, std::vector<FusedCall>& calls) {
  for (FusedCall& call : calls) {
    call.gradients.clear();  // A step that threw has left some.
  }
  for (const Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) {
      continue;
    }
    const auto call = std::find_if(calls.begin(), calls.end(), [&](const FusedCall& c) {
      return c.dtype == parameter.scalar_type() && c.device == parameter.device();
    });
    if (call != calls.end()) {
      call->add(parameter);
    } else {
      calls.push_back({.device = parameter.device(), .dtype = parameter.scalar_type()});
      calls.back().add(parameter);
    }
  }
}

OptimizerState AdamW::optimizer_state() const {
  for (const auto& group : param_groups_) {
    options_of(group);
  }
  return detail::save_state(*this, kLayout);
}

void AdamW::load_optimizer_state(const OptimizerState& state) {
  for (const auto& group : param_groups_) {
    options_of(group);
  }
  detail::load_state(*this, kLayout, state);
  calls_.clear();
}

}  // namespace trainer::optim
