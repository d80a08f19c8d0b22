#include <trainer/optim/lbfgs.h>

#include <utility>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/optim/algorithm.h>

namespace trainer::optim {
namespace {

void check_at_least_1(const char* name, int64_t value) {
  if (value < 1) {
    throw UsageError(fmt::format("LBFGS: {} is {}, it must be at least 1.", name, value));
  }
}

/// Before LibTorch's constructor, which checks with messages of its own.
const detail::Groups& checked(const detail::Groups& groups, const LBFGSOptions& options) {
  if (groups.size() != 1 || groups[0].params().empty()) {
    throw UsageError(
        fmt::format("LBFGS: found {} parameter groups{}.\n  Give it one group with all parameters.",
                    groups.size(), groups.size() == 1 ? " without a parameter" : ""));
  }
  detail::check_at_least_0("LBFGS", {{"lr", options.lr()},
                                     {"tolerance_grad", options.tolerance_grad()},
                                     {"tolerance_change", options.tolerance_change()}});
  check_at_least_1("max_iter", options.max_iter());
  check_at_least_1("max_eval", options.max_eval().value_or(1));
  check_at_least_1("history_size", options.history_size());
  const auto& search = options.line_search_fn();
  if (search && *search != "strong_wolfe") {
    throw UsageError(
        fmt::format("LBFGS: line_search_fn is '{}'.\n  Give it 'strong_wolfe' or none.", *search));
  }
  return groups;
}

/// Those of the group, if it has some: LibTorch would derive max_eval from the defaults' max_iter.
const LBFGSOptions& options_of(const detail::Groups& groups, const LBFGSOptions& defaults) {
  const auto* own = groups.size() == 1 && groups[0].has_options()
                        ? dynamic_cast<const LBFGSOptions*>(&groups[0].options())
                        : nullptr;
  return own != nullptr ? *own : defaults;
}

}  // namespace

LBFGS::LBFGS(std::vector<torch::Tensor> parameters, LBFGSOptions options)
    : LBFGS({torch::optim::OptimizerParamGroup(std::move(parameters))}, std::move(options)) {}

LBFGS::LBFGS(const detail::Groups& groups, LBFGSOptions defaults)
    : torch::optim::LBFGS(checked(groups, options_of(groups, defaults)),
                          options_of(groups, defaults)) {}

torch::Tensor LBFGS::step(LossClosure closure) {
  if (!closure) {
    throw UsageError(
        "LBFGS: step() without a closure.\n"
        "  Give it one that zeroes the gradients, evaluates the loss and runs backward().");
  }
  return torch::optim::LBFGS::step(std::move(closure));
}

}  // namespace trainer::optim
