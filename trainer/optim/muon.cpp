#include <trainer/optim/muon.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/addmm.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>
#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

using torch::Tensor;

void check(const MuonOptions& options) {
  detail::check_at_least_0("Muon", {{"lr", options.lr()},
                                    {"weight_decay", options.weight_decay()},
                                    {"momentum", options.momentum()},
                                    {"eps", options.eps()}});
  if (options.momentum() > 1) {
    throw UsageError(
        fmt::format("Muon: momentum is {}, it must be at most 1.", options.momentum()));
  }
  if (options.ns_steps() < 0 || options.ns_steps() >= 100) {
    throw UsageError(fmt::format("Muon: ns_steps is {}, it must be at least 0 and below 100.",
                                 options.ns_steps()));
  }
  const std::string& adjust = options.adjust_lr_fn();
  if (adjust != "original" && adjust != "match_rms_adamw" && adjust != "spectral_unclamped") {
    throw UsageError(
        fmt::format("Muon: adjust_lr_fn is '{}'.\n"
                    "  Give it 'original', 'match_rms_adamw' or 'spectral_unclamped'.",
                    adjust));
  }
}

void check_sizes(torch::IntArrayRef sizes) {
  if (sizes.size() != 2) {
    throw UsageError(fmt::format(
        "Muon: found a parameter of shape [{}], but it updates matrices only.\n"
        "  Give it the 2-D weights of hidden layers, and the other parameters to AdamW.",
        fmt::join(sizes, ", ")));
  }
}

std::vector<detail::OptionField> fields(MuonOptions& options) {
  return {{"lr", &options.lr()},
          {"weight_decay", &options.weight_decay()},
          {"momentum", &options.momentum()},
          {"nesterov", &options.nesterov()},
          {"ns_coefficients", &options.ns_coefficients()},
          {"eps", &options.eps()},
          {"ns_steps", &options.ns_steps()},
          {"adjust_lr_fn", &options.adjust_lr_fn()}};
}

const detail::Algorithm& algorithm() {
  static const detail::Algorithm kAlgorithm = [] {
    auto result = detail::algorithm_with<MuonOptions>("Muon", check, fields);
    result.own_options = true;
    result.state = {{.name = "momentum_buffer"}};
    result.check_sizes = check_sizes;
    return result;
  }();
  return kAlgorithm;
}

/// The orthogonal matrix U V^T nearest to `matrix` = U S V^T, roughly: the singular values end up
/// between 0.7 and 1.2, which does as well in training. [rows, columns], in the matrix' dtype.
Tensor orthogonalized(const Tensor& matrix, const MuonOptions& options) {
  const auto [a, b, c] = options.ns_coefficients();
  const bool tall = matrix.size(0) > matrix.size(1);
  Tensor x = tall ? matrix.t() : matrix;
  x = x.div(x.norm().clamp(options.eps()));  // The iteration needs singular values of at most 1.
  for (int64_t i = 0; i < options.ns_steps(); ++i) {
    const Tensor gram = x.matmul(x.t());
    x = at::addmm(x, at::addmm(gram, gram, gram, b, c), x, a);
  }
  return tall ? x.t() : x;
}

double adjusted_lr(const MuonOptions& options, const std::vector<int64_t>& sizes) {
  const auto rows = static_cast<double>(sizes[0]);
  const auto columns = static_cast<double>(sizes[1]);
  if (options.adjust_lr_fn() == "match_rms_adamw") {
    return options.lr() * 0.2 * std::sqrt(std::max(rows, columns));
  }
  const bool clamped = options.adjust_lr_fn() == "original";
  return options.lr() * std::sqrt(clamped ? std::max(1.0, rows / columns) : rows / columns);
}

}  // namespace

Muon::Muon(std::vector<Tensor> parameters, MuonOptions options)
    : Muon({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

Muon::Muon(const detail::Groups& groups, MuonOptions defaults)
    : MultiTensorOptimizer(algorithm(), groups,
                           std::make_unique<MuonOptions>(std::move(defaults))) {}

void Muon::update(detail::TensorLists& lists, const detail::Options& base) {
  const auto& options = static_cast<const MuonOptions&>(base);
  std::vector<double> rates;
  for (const Tensor& parameter : lists.parameters) {
    const auto sizes = whole().sizes(parameter);
    check_sizes(sizes);  // The constructor has not seen those of add_param_group().
    rates.push_back(adjusted_lr(options, sizes));
  }
  const detail::Tensors& buffers = lists.state[0];
  at::_foreach_lerp_(buffers, lists.gradients, 1 - options.momentum());
  detail::Tensors updates = options.nesterov()
                                ? at::_foreach_lerp(lists.gradients, buffers, options.momentum())
                                : buffers;
  for (Tensor& update : updates) {
    update = update.to(torch::kBFloat16);
  }
  at::_foreach_mul_(lists.parameters, 1 - options.lr() * options.weight_decay());
  whole().change_each(
      lists.parameters, updates,
      [&](const Tensor& matrix) { return orthogonalized(matrix, options); },
      [&](size_t i, const Tensor& update) { lists.parameters[i].add_(update, -rates[i]); });
}

}  // namespace trainer::optim
