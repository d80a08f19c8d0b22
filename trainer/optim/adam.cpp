// Adam and AdamW: the same state and options, two kernels.

#include <trainer/optim/adam.h>

#include <memory>
#include <utility>

#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>

#include <trainer/optim/adamw.h>
#include <trainer/optim/algorithm.h>
#include <trainer/optim/option_fields.h>

namespace trainer::optim {
namespace {

constexpr const char* name_of(const AdamOptions*) { return "Adam"; }
constexpr const char* name_of(const AdamWOptions*) { return "AdamW"; }

template <class O>
void check(const O& options) {
  const char* name = name_of(&options);
  detail::check_at_least_0(
      name,
      {{"lr", options.lr()}, {"eps", options.eps()}, {"weight_decay", options.weight_decay()}});
  detail::check_betas(name, options.betas());
}

template <class O>
const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<O>(name_of(static_cast<const O*>(nullptr)), check<O>,
                                            trainer::detail::option_fields);
    result.steps = detail::Steps::kOnDevice;
    result.fused = true;
    result.state = {{.name = "exp_avg"},
                    {.name = "exp_avg_sq"},
                    {.name = "max_exp_avg_sq", .needed = [](const detail::Options& options) {
                       return static_cast<const O&>(options).amsgrad();
                     }}};
    return result;
  }();
  return kAlgorithm;
}

template <class O, class Kernel>
void update_with(Kernel kernel, detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const O&>(base);
  const auto [beta1, beta2] = options.betas();
  kernel(lists.parameters, lists.gradients, lists.state[0], lists.state[1], lists.state[2],
         lists.steps, options.lr(), beta1, beta2, options.weight_decay(), options.eps(),
         options.amsgrad());
}

}  // namespace

Adam::Adam(std::vector<torch::Tensor> parameters, AdamOptions options)
    : Adam({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

Adam::Adam(const detail::Groups& groups, AdamOptions defaults)
    : MultiTensorOptimizer(algorithm<AdamOptions>(), groups,
                           std::make_unique<AdamOptions>(std::move(defaults))) {}

void Adam::update(detail::TensorLists& lists, const detail::Options& options) {
  update_with<AdamOptions>(
      [&](const auto&... arguments) {
        at::_fused_adam_(arguments..., /*maximize=*/false, /*grad_scale=*/{}, lists.found_inf);
      },
      lists, options);
}

AdamW::AdamW(std::vector<torch::Tensor> parameters, AdamWOptions options)
    : AdamW({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

AdamW::AdamW(const detail::Groups& groups, AdamWOptions defaults)
    : MultiTensorOptimizer(algorithm<AdamWOptions>(), groups,
                           std::make_unique<AdamWOptions>(std::move(defaults))) {}

void AdamW::update(detail::TensorLists& lists, const detail::Options& options) {
  update_with<AdamWOptions>(
      [&](const auto&... arguments) {
        at::_fused_adamw_(arguments..., /*maximize=*/false, /*grad_scale=*/{}, lists.found_inf);
      },
      lists, options);
}

}  // namespace trainer::optim
