#include <trainer/optim/lamb.h>

#include <cmath>
#include <memory>
#include <utility>

#include <ATen/OpMathType.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/stack.h>
#include <torch/types.h>

#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

void check(const LAMBOptions& options) {
  detail::check_at_least_0(
      "LAMB",
      {{"lr", options.lr()}, {"eps", options.eps()}, {"weight_decay", options.weight_decay()}});
  detail::check_betas("LAMB", options.betas());
}

std::vector<detail::OptionField> fields(LAMBOptions& options) {
  return {{"lr", &options.lr()},
          {"betas", &options.betas()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()}};
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<LAMBOptions>("LAMB", check, fields);
    result.steps = detail::Steps::kOnHost;
    result.own_options = true;
    result.state = {{.name = "exp_avg"}, {.name = "exp_avg_sq"}};
    return result;
  }();
  return kAlgorithm;
}

/// |parameter| / |update| for each, on the device.
detail::Tensors trust_ratios(const detail::TensorLists& lists, const detail::Tensors& updates,
                             const WholeTensors& whole) {
  const auto dtype = at::toOpMathType(lists.dtype);
  auto all_norms = at::_foreach_norm(lists.parameters, 2, dtype);
  auto of_updates = at::_foreach_norm(updates, 2, dtype);
  all_norms.insert(all_norms.end(), of_updates.begin(), of_updates.end());
  // In float64 the root of a square is the number again: whole tensors lose nothing by it.
  const auto squares = at::stack(all_norms).to(torch::kFloat64).square_();
  whole.sum(squares);
  const auto pairs = squares.sqrt_().to(dtype).view({2, -1});
  const auto norms = pairs[0];
  const auto update_norms = pairs[1];
  const auto usable = (norms > 0).logical_and_(update_norms > 0);
  return torch::where(usable, norms / update_norms, torch::ones_like(norms)).unbind();
}

}  // namespace

LAMB::LAMB(std::vector<torch::Tensor> parameters, LAMBOptions options)
    : LAMB({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

LAMB::LAMB(const detail::Groups& groups, LAMBOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups,
                           std::make_unique<LAMBOptions>(std::move(defaults))) {}

void LAMB::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const LAMBOptions&>(base);
  const auto [beta1, beta2] = options.betas();
  const auto& [exp_avgs, exp_avg_sqs, unused] = lists.state;
  std::vector<at::Scalar> corrections1;
  std::vector<at::Scalar> corrections2;
  for (const detail::ParamState* own : lists.param_states) {
    const auto step = static_cast<double>(own->step_on_host);
    corrections1.emplace_back(1 - std::pow(beta1, step));
    corrections2.emplace_back(1 - std::pow(beta2, step));
  }
  at::_foreach_mul_(exp_avgs, beta1);
  at::_foreach_add_(exp_avgs, lists.gradients, 1 - beta1);
  at::_foreach_mul_(exp_avg_sqs, beta2);
  at::_foreach_addcmul_(exp_avg_sqs, lists.gradients, lists.gradients, 1 - beta2);
  const auto denominators = at::_foreach_div(exp_avg_sqs, corrections2);
  at::_foreach_sqrt_(denominators);
  at::_foreach_add_(denominators, options.eps());
  const auto updates = at::_foreach_div(exp_avgs, corrections1);
  at::_foreach_div_(updates, denominators);
  if (options.weight_decay() != 0) {
    at::_foreach_add_(updates, lists.parameters, options.weight_decay());
  }
  at::_foreach_mul_(updates, trust_ratios(lists, updates, whole()));
  at::_foreach_add_(lists.parameters, updates, -options.lr());
}

}  // namespace trainer::optim
