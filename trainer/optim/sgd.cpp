#include <trainer/optim/sgd.h>

#include <memory>
#include <optional>
#include <utility>

#include <ATen/ops/_fused_sgd.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/optim/algorithm.h>
#include <trainer/optim/option_fields.h>

namespace trainer::optim {
namespace {

void check(const SGDOptions& options) {
  detail::check_at_least_0("SGD", {{"lr", options.lr()},
                                   {"momentum", options.momentum()},
                                   {"weight_decay", options.weight_decay()}});
  if (options.nesterov() && (options.momentum() == 0 || options.dampening() != 0)) {
    throw UsageError(
        fmt::format("SGD: nesterov with momentum {} and dampening {}.\n"
                    "  Give it a momentum above 0 and dampening 0, or set nesterov to false.",
                    options.momentum(), options.dampening()));
  }
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<SGDOptions>("SGD", check, trainer::detail::option_fields);
    result.fused = true;
    result.state = {{.name = "momentum_buffer", .needed = [](const detail::Options& options) {
                       return static_cast<const SGDOptions&>(options).momentum() != 0;
                     }}};
    // The first step sets the buffer to the whole gradient, a later one dampens it: a skipped first
    // step would turn the next one into a later one.
    result.skips_cleanly = [](const detail::Options& options) {
      const auto& own = static_cast<const SGDOptions&>(options);
      return own.momentum() == 0 || own.dampening() == 0;
    };
    return result;
  }();
  return kAlgorithm;
}

/// The elements of `all` whose index stands in `fresh`, which is sorted, or those of the others.
detail::Tensors select(const detail::Tensors& all, const std::vector<size_t>& fresh, bool in) {
  detail::Tensors result;
  size_t next = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool found = next < fresh.size() && fresh[next] == i;
    next += found ? 1 : 0;
    if (found == in) {
      result.push_back(all[i]);
    }
  }
  return result;
}

void run(const detail::Tensors& parameters, const detail::Tensors& gradients,
         const detail::Tensors& buffers, const SGDOptions& options, bool is_first_step,
         const std::optional<torch::Tensor>& found_inf) {
  at::_fused_sgd_(parameters, gradients, buffers, options.weight_decay(), options.momentum(),
                  options.lr(), options.dampening(), options.nesterov(), /*maximize=*/false,
                  is_first_step, /*grad_scale=*/{}, found_inf);
}

}  // namespace

SGD::SGD(std::vector<torch::Tensor> parameters, SGDOptions options)
    : SGD({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

SGD::SGD(const detail::Groups& groups, SGDOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups, std::make_unique<SGDOptions>(std::move(defaults))) {
}

void SGD::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const SGDOptions&>(base);
  const detail::Tensors& parameters = lists.parameters;
  const detail::Tensors& gradients = lists.gradients;
  const detail::Tensors& buffers = lists.state[0];
  if (lists.fresh.empty() || lists.fresh.size() == parameters.size()) {
    run(parameters, gradients, buffers, options, !lists.fresh.empty(), lists.found_inf);
    return;
  }
  for (const bool is_first_step : {true, false}) {
    run(select(parameters, lists.fresh, is_first_step),
        select(gradients, lists.fresh, is_first_step), select(buffers, lists.fresh, is_first_step),
        options, is_first_step, lists.found_inf);
  }
}

}  // namespace trainer::optim
