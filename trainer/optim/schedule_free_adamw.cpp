#include <trainer/optim/schedule_free_adamw.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

using Own = ScheduleFreeAdamWOptions;

constexpr const char* kName = "ScheduleFreeAdamW";
// Where they stand in the lists of the state: the newest iterate, and the training version of the
// parameters while these hold the average. Computing it back would round.
constexpr size_t kZ = 0;
constexpr size_t kY = 2;

void check(const Own& options) {
  detail::check_at_least_0(kName, {{"lr", options.lr()},
                                   {"eps", options.eps()},
                                   {"weight_decay", options.weight_decay()},
                                   {"warmup_steps", static_cast<double>(options.warmup_steps())},
                                   {"r", options.r()},
                                   {"weight_lr_power", options.weight_lr_power()}});
  detail::check_betas(kName, options.betas());
  if (std::get<0>(options.betas()) == 0) {
    throw UsageError(fmt::format("{}: the first of betas is 0, it must be above 0.", kName));
  }
}

std::vector<detail::OptionField> fields(Own& options) {
  return {{"lr", &options.lr()},
          {"betas", &options.betas()},
          {"eps", &options.eps()},
          {"weight_decay", &options.weight_decay()},
          {"warmup_steps", &options.warmup_steps()},
          {"r", &options.r()},
          {"weight_lr_power", &options.weight_lr_power()},
          {"k", &options.k()},
          {"lr_max", &options.lr_max()},
          {"weight_sum", &options.weight_sum()},
          {"train_mode", &options.train_mode()}};
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<Own>(kName, check, fields);
    result.own_options = true;
    result.state = {{.name = "z",
                     .make = [](const torch::Tensor& parameter,
                                const detail::Options&) { return parameter.detach().clone(); }},
                    {.name = "exp_avg_sq"},
                    {.name = "y", .needed = [](const detail::Options&) { return false; }}};
    return result;
  }();
  return kAlgorithm;
}

}  // namespace

ScheduleFreeAdamW::ScheduleFreeAdamW(std::vector<torch::Tensor> parameters, Own options)
    : ScheduleFreeAdamW({torch::optim::OptimizerParamGroup(std::move(parameters))},
                        std::move(options)) {}

ScheduleFreeAdamW::ScheduleFreeAdamW(const detail::Groups& groups, Own defaults)
    : MultiTensorOptimizer(algorithm(), groups, std::make_unique<Own>(std::move(defaults))) {}

void ScheduleFreeAdamW::begin_group(detail::Options& base) {
  auto& options = static_cast<Own&>(base);
  if (!options.train_mode()) {
    throw UsageError(fmt::format(
        "{}: step() while the parameters hold the average.\n  Call train() first.", kName));
  }
  const auto step = static_cast<double>(options.k() + 1);
  const auto warmup_steps = static_cast<double>(options.warmup_steps());
  lr_ = options.lr() * (step < warmup_steps ? step / warmup_steps : 1);
  options.lr_max(std::max(options.lr_max(), lr_));
  const double weight =
      std::pow(step, options.r()) * std::pow(options.lr_max(), options.weight_lr_power());
  options.weight_sum(options.weight_sum() + weight);
  average_weight_ = options.weight_sum() > 0 ? weight / options.weight_sum() : 0;
  options.k(options.k() + 1);
}

void ScheduleFreeAdamW::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const Own&>(base);
  const auto [beta1, beta2] = options.betas();
  const detail::Tensors& y = lists.parameters;
  const detail::Tensors& z = lists.state[kZ];
  const detail::Tensors& exp_avg_sqs = lists.state[1];
  at::_foreach_mul_(exp_avg_sqs, beta2);
  at::_foreach_addcmul_(exp_avg_sqs, lists.gradients, lists.gradients, 1 - beta2);
  const auto denominators =
      at::_foreach_div(exp_avg_sqs, 1 - std::pow(beta2, static_cast<double>(options.k())));
  at::_foreach_sqrt_(denominators);
  at::_foreach_add_(denominators, options.eps());
  const auto directions = at::_foreach_div(lists.gradients, denominators);
  if (options.weight_decay() != 0) {
    at::_foreach_add_(directions, y, options.weight_decay());
  }
  // y = (1 - beta1) z + beta1 x stays true for the new z and the new average x without storing x.
  at::_foreach_lerp_(y, z, average_weight_);
  at::_foreach_add_(y, directions, lr_ * (beta1 * (1 - average_weight_) - 1));
  at::_foreach_add_(z, directions, -lr_);
}

void ScheduleFreeAdamW::train() { switch_to(true); }

void ScheduleFreeAdamW::eval() { switch_to(false); }

void ScheduleFreeAdamW::switch_to(bool train_mode) {
  const torch::NoGradGuard no_grad;
  for (auto& group : param_groups_) {
    auto& options = static_cast<Own&>(group.options());
    if (options.train_mode() == train_mode) {
      continue;
    }
    options.train_mode(train_mode);
    const double beta1 = std::get<0>(options.betas());
    for (const torch::Tensor& parameter : group.params()) {
      const auto found = state_.find(parameter.unsafeGetTensorImpl());
      if (found == state_.end()) {
        continue;
      }
      auto& state = static_cast<detail::ParamState&>(*found->second).tensors;
      if (train_mode) {
        parameter.copy_(state[kY]);
        state[kY].reset();
      } else {
        state[kY] = parameter.detach().clone();
        parameter.lerp_(state[kZ], 1 - 1 / beta1);
      }
    }
  }
}

}  // namespace trainer::optim
