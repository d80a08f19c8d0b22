#include <trainer/optim/adagrad.h>

#include <memory>
#include <utility>

#include <ATen/ops/_fused_adagrad.h>
#include <torch/utils.h>

#include <trainer/optim/algorithm.h>
#include <trainer/optim/option_fields.h>

namespace trainer::optim {
namespace {

void check(const AdagradOptions& options) {
  detail::check_at_least_0("Adagrad",
                           {{"lr", options.lr()},
                            {"lr_decay", options.lr_decay()},
                            {"weight_decay", options.weight_decay()},
                            {"initial_accumulator_value", options.initial_accumulator_value()},
                            {"eps", options.eps()}});
}

torch::Tensor first_sum(const torch::Tensor& parameter, const detail::Options& options) {
  return torch::full_like(parameter,
                          static_cast<const AdagradOptions&>(options).initial_accumulator_value());
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result =
        detail::algorithm_with<AdagradOptions>("Adagrad", check, trainer::detail::option_fields);
    result.steps = detail::Steps::kOnDevice;
    result.fused = true;
    result.state = {{.name = "sum", .make = first_sum}};
    return result;
  }();
  return kAlgorithm;
}

}  // namespace

Adagrad::Adagrad(std::vector<torch::Tensor> parameters, AdagradOptions options)
    : Adagrad({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

Adagrad::Adagrad(const detail::Groups& groups, AdagradOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups,
                           std::make_unique<AdagradOptions>(std::move(defaults))) {}

void Adagrad::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const AdagradOptions&>(base);
  at::_fused_adagrad_(lists.parameters, lists.gradients, lists.state[0], lists.steps, options.lr(),
                      options.lr_decay(), options.weight_decay(), options.eps(),
                      /*maximize=*/false, /*grad_scale=*/{}, lists.found_inf);
}

}  // namespace trainer::optim
