#include <trainer/optim/rmsprop.h>

#include <memory>
#include <utility>

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcdiv.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_sqrt.h>

#include <trainer/optim/algorithm.h>
#include <trainer/optim/option_fields.h>

namespace trainer::optim {
namespace {

void check(const RMSpropOptions& options) {
  detail::check_at_least_0("RMSprop", {{"lr", options.lr()},
                                       {"alpha", options.alpha()},
                                       {"eps", options.eps()},
                                       {"weight_decay", options.weight_decay()},
                                       {"momentum", options.momentum()}});
}

const RMSpropOptions& own(const detail::Options& options) {
  return static_cast<const RMSpropOptions&>(options);
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result =
        detail::algorithm_with<RMSpropOptions>("RMSprop", check, trainer::detail::option_fields);
    result.steps = detail::Steps::kOnHost;
    result.state = {
        {.name = "square_avg"},
        {.name = "momentum_buffer",
         .needed = [](const detail::Options& o) { return own(o).momentum() > 0; }},
        {.name = "grad_avg", .needed = [](const detail::Options& o) { return own(o).centered(); }}};
    return result;
  }();
  return kAlgorithm;
}

}  // namespace

RMSprop::RMSprop(std::vector<torch::Tensor> parameters, RMSpropOptions options)
    : RMSprop({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

RMSprop::RMSprop(const detail::Groups& groups, RMSpropOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups,
                           std::make_unique<RMSpropOptions>(std::move(defaults))) {}

void RMSprop::update(detail::TensorLists& lists, const detail::Options& base) {
  const RMSpropOptions& options = own(base);
  const auto& [square_avgs, momentum_buffers, grad_avgs] = lists.state;
  detail::Tensors gradients = lists.gradients;
  if (options.weight_decay() != 0) {
    gradients = at::_foreach_add(gradients, lists.parameters, options.weight_decay());
  }
  at::_foreach_mul_(square_avgs, options.alpha());
  at::_foreach_addcmul_(square_avgs, gradients, gradients, 1 - options.alpha());
  detail::Tensors average;
  if (options.centered()) {
    at::_foreach_lerp_(grad_avgs, gradients, 1 - options.alpha());
    average = at::_foreach_addcmul(square_avgs, grad_avgs, grad_avgs, -1);
    at::_foreach_sqrt_(average);
  } else {
    average = at::_foreach_sqrt(square_avgs);
  }
  at::_foreach_add_(average, options.eps());
  if (options.momentum() > 0) {
    at::_foreach_mul_(momentum_buffers, options.momentum());
    at::_foreach_addcdiv_(momentum_buffers, gradients, average);
    at::_foreach_add_(lists.parameters, momentum_buffers, -options.lr());
  } else {
    at::_foreach_addcdiv_(lists.parameters, gradients, average, -options.lr());
  }
}

}  // namespace trainer::optim
