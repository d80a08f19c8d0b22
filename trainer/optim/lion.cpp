#include <trainer/optim/lion.h>

#include <memory>
#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sign.h>

#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

void check(const LionOptions& options) {
  detail::check_at_least_0("Lion",
                           {{"lr", options.lr()}, {"weight_decay", options.weight_decay()}});
  detail::check_betas("Lion", options.betas());
}

std::vector<detail::OptionField> fields(LionOptions& options) {
  return {{"lr", &options.lr()},
          {"betas", &options.betas()},
          {"weight_decay", &options.weight_decay()}};
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<LionOptions>("Lion", check, fields);
    result.own_options = true;
    result.state = {{.name = "exp_avg"}};
    return result;
  }();
  return kAlgorithm;
}

}  // namespace

Lion::Lion(std::vector<torch::Tensor> parameters, LionOptions options)
    : Lion({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

Lion::Lion(const detail::Groups& groups, LionOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups,
                           std::make_unique<LionOptions>(std::move(defaults))) {}

void Lion::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const LionOptions&>(base);
  const auto [beta1, beta2] = options.betas();
  const detail::Tensors& exp_avgs = lists.state[0];
  const auto updates = at::_foreach_mul(exp_avgs, beta1);
  at::_foreach_add_(updates, lists.gradients, 1 - beta1);
  at::_foreach_sign_(updates);
  if (options.weight_decay() != 0) {
    at::_foreach_mul_(lists.parameters, 1 - options.lr() * options.weight_decay());
  }
  at::_foreach_add_(lists.parameters, updates, -options.lr());
  at::_foreach_mul_(exp_avgs, beta2);
  at::_foreach_add_(exp_avgs, lists.gradients, 1 - beta2);
}

}  // namespace trainer::optim
