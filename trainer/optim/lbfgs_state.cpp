#include <trainer/optim/lbfgs_state.h>

#include <deque>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/option_fields.h>

namespace trainer::detail {
namespace {

using State = torch::optim::LBFGSParamState;
using Tensors = std::map<std::string, torch::Tensor>;

StateLayout layout() {
  return {.option_fields = [](torch::optim::OptimizerOptions& options) {
    return option_fields(static_cast<torch::optim::LBFGSOptions&>(options));
  }};
}

/// What the optimizer does arithmetic on: the elements of all parameters, one after another.
torch::Tensor flat_like(const std::vector<torch::Tensor>& parameters) {
  std::vector<torch::Tensor> views;
  for (const torch::Tensor& parameter : parameters) {
    views.push_back(parameter.detach().reshape(-1));
  }
  return torch::cat(views);
}

const char* require(const Tensors& saved, const char* name) {
  if (!saved.contains(name) || !saved.at(name).defined()) {
    throw CheckpointError(
        fmt::format("Optimizer state: {} is missing for LBFGS.\n"
                    "  Restore it with the optimizer it was saved with.",
                    name));
  }
  return name;
}

/// The saved tensor like `flat` in device and dtype. Throws CheckpointError where its shape is not
/// `expected`.
torch::Tensor read(const Tensors& saved, const char* name, torch::IntArrayRef expected,
                   const torch::Tensor& flat) {
  const torch::Tensor& tensor = saved.at(require(saved, name));
  if (tensor.sizes() != expected) {
    throw CheckpointError(
        fmt::format("Optimizer state: {} of LBFGS is [{}], expected [{}].\n"
                    "  Restore it with the module it was saved with.",
                    name, fmt::join(tensor.sizes(), ", "), fmt::join(expected, ", ")));
  }
  return tensor.to(flat.options(), /*non_blocking=*/false, /*copy=*/true);
}

template <class T>
T read_number(const Tensors& saved, const char* name) {
  const torch::Tensor& tensor = saved.at(require(saved, name));
  if (tensor.dim() != 0) {
    throw CheckpointError(
        fmt::format("Optimizer state: {} of LBFGS is [{}], expected one number.\n"
                    "  The checkpoint is damaged.",
                    name, fmt::join(tensor.sizes(), ", ")));
  }
  return tensor.item<T>();
}

std::deque<torch::Tensor> rows(const torch::Tensor& stacked) {
  std::deque<torch::Tensor> result;
  for (const torch::Tensor& row : stacked.unbind()) {
    result.push_back(row.clone());
  }
  return result;
}

torch::Tensor stacked(const std::deque<torch::Tensor>& rows) {
  return torch::stack(std::vector<torch::Tensor>(rows.begin(), rows.end()));
}

Tensors save(const State& state) {
  Tensors saved = {{"func_evals", torch::tensor(state.func_evals(), torch::kInt64)},
                   {"n_iter", torch::tensor(state.n_iter(), torch::kInt64)},
                   {"t", torch::tensor(state.t(), torch::kFloat64)},
                   {"prev_loss", torch::tensor(state.prev_loss(), torch::kFloat64)}};
  if (state.d().defined()) {  // Not where the first evaluation found a minimum.
    saved["d"] = state.d();
    saved["H_diag"] = state.H_diag();
    saved["prev_flat_grad"] = state.prev_flat_grad();
  }
  if (!state.old_dirs().empty()) {
    saved["old_dirs"] = stacked(state.old_dirs());
    saved["old_stps"] = stacked(state.old_stps());
    saved["ro"] = stacked(state.ro());
  }
  return saved;
}

std::unique_ptr<State> load(const Tensors& saved, const torch::Tensor& flat) {
  auto state = std::make_unique<State>();
  state->func_evals(read_number<int64_t>(saved, "func_evals"));
  state->n_iter(read_number<int64_t>(saved, "n_iter"));
  state->t(read_number<double>(saved, "t"));
  state->prev_loss(read_number<double>(saved, "prev_loss"));
  if (state->n_iter() > 0) {
    state->d(read(saved, "d", flat.sizes(), flat));
    state->H_diag(read(saved, "H_diag", {}, flat));
    state->prev_flat_grad(read(saved, "prev_flat_grad", flat.sizes(), flat));
  }
  if (saved.contains("old_dirs")) {
    const int64_t history = saved.at(require(saved, "ro")).numel();
    state->old_dirs(rows(read(saved, "old_dirs", {history, flat.numel()}, flat)));
    state->old_stps(rows(read(saved, "old_stps", {history, flat.numel()}, flat)));
    state->ro(rows(read(saved, "ro", {history}, flat)));
  }
  return state;
}

}  // namespace

OptimizerState save_lbfgs(const torch::optim::LBFGS& optimizer) {
  const torch::NoGradGuard no_grad;
  OptimizerState result{.parameters = {}, .groups = save_options(optimizer, layout())};
  const auto& parameters = optimizer.param_groups()[0].params();
  result.parameters.resize(parameters.size());
  if (parameters.empty()) {
    return result;
  }
  if (const auto state = optimizer.state().find(parameters[0].unsafeGetTensorImpl());
      state != optimizer.state().end()) {
    result.parameters[0] = save(static_cast<const State&>(*state->second));
  }
  return result;
}

void load_lbfgs(torch::optim::LBFGS& optimizer, const OptimizerState& state) {
  const torch::NoGradGuard no_grad;
  auto options = read_options(optimizer, layout(), state);
  auto& group = optimizer.param_groups()[0];
  for (size_t i = 1; i < state.parameters.size(); ++i) {
    if (!state.parameters[i].empty()) {
      throw CheckpointError(
          fmt::format("Optimizer state: parameter {} has state of its own, but LBFGS has one for "
                      "all parameters.\n  Restore it with the optimizer it was saved with.",
                      i));
    }
  }
  if (group.params().empty()) {
    group.set_options(std::move(options[0]));
    return;
  }
  std::unique_ptr<State> restored;
  if (!state.parameters[0].empty()) {
    restored = load(state.parameters[0], flat_like(group.params()));
  }
  group.set_options(std::move(options[0]));
  const auto key = group.params()[0].unsafeGetTensorImpl();
  if (restored) {
    optimizer.state()[key] = std::move(restored);
  } else {
    optimizer.state().erase(key);
  }
}

}  // namespace trainer::detail
