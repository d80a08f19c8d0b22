#include <trainer/manual_optimization.h>

#include <unordered_set>

namespace trainer {

ToggleScope::ToggleScope(ManualOptimization& loop, const OptimizerHandle& toggled) {
  if (loop.num_optimizers() == 1) {
    return;
  }
  std::unordered_set<const void*> kept;
  for (const auto& group : toggled->param_groups()) {
    for (const auto& parameter : group.params()) {
      kept.insert(parameter.unsafeGetTensorImpl());
    }
  }
  for (size_t i = 0; i < loop.num_optimizers(); ++i) {
    for (auto& group : loop.optimizer(i).param_groups()) {
      for (auto& parameter : group.params()) {
        if (parameter.requires_grad() && !kept.contains(parameter.unsafeGetTensorImpl())) {
          parameter.requires_grad_(false);
          switched_off_.push_back(parameter);
        }
      }
    }
  }
}

ToggleScope::~ToggleScope() {
  for (auto& parameter : switched_off_) {
    parameter.requires_grad_(true);
  }
}

}  // namespace trainer
