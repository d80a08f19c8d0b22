#include <trainer/optim/lr_scheduler.h>

#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>
#include <trainer/optim/momentum.h>

namespace trainer {
namespace {

/// The count of a state; -1 if it has none.
int64_t read_count(const nlohmann::json& state) {
  if (!state.contains("count") || !state["count"].is_number_integer()) {
    return -1;
  }
  const auto& count = state["count"];
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return count.is_number_unsigned() && count.get<uint64_t>() > kMax ? -1 : count.get<int64_t>();
}

bool are_numbers(const nlohmann::json& values) {
  for (const auto& value : values) {
    if (!value.is_number()) {
      return false;
    }
  }
  return values.is_array();
}

}  // namespace

LRScheduler::LRScheduler(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {
  for (const auto& group : optimizer.param_groups()) {
    initial_lrs_.push_back(group.options().get_lr());
  }
}

void LRScheduler::step() {
  if (needs_metric()) {
    throw UsageError(
        "The learning-rate scheduler needs a metric: call step(metric), or set `monitor` where a "
        "Trainer steps it.");
  }
  ++count_;
  apply();
}

void LRScheduler::step(double metric) {
  observe(metric);
  ++count_;
  apply();
}

void LRScheduler::apply() {
  auto& groups = optimizer_.param_groups();
  if (groups.size() != initial_lrs_.size()) {
    throw UsageError(
        fmt::format("The optimizer has {} parameter groups, it had {} when its learning-rate "
                    "scheduler was made.\n"
                    "  Make the scheduler after the last add_param_group().",
                    groups.size(), initial_lrs_.size()));
  }
  const auto present_momentum = momentum(count_);
  for (size_t i = 0; i < groups.size(); ++i) {
    const double present = lr(initial_lrs_[i], count_);
    if (!std::isfinite(present)) {
      throw UsageError(
          fmt::format("The learning rate of parameter group {} is {} after {} steps of its "
                      "scheduler, initially "
                      "it was {}.\n  Correct the scheduler's arguments or function.",
                      i, present, count_, initial_lrs_[i]));
    }
    groups[i].options().set_lr(present);
    if (present_momentum) {
      set_momentum(groups[i].options(), *present_momentum);
    }
  }
}

nlohmann::json LRScheduler::state_dict() const {
  return {{"count", count_}, {"initial_lrs", initial_lrs_}};
}

void LRScheduler::load_state_dict(const nlohmann::json& state) {
  const int64_t count = read_count(state);
  if (count < 0 || !state.contains("initial_lrs") || !are_numbers(state["initial_lrs"])) {
    throw CheckpointError(fmt::format(
        "Learning-rate scheduler: the state is {}, expected {{\"count\": integer >= 0, "
        "\"initial_lrs\": "
        "[numbers]}}.\n  The checkpoint is damaged or has the state of something else here.",
        state.dump()));
  }
  auto initial_lrs = state["initial_lrs"].get<std::vector<double>>();
  if (initial_lrs.size() != initial_lrs_.size()) {
    throw CheckpointError(
        fmt::format("Learning-rate scheduler: the state has {} initial_lrs, the optimizer has {} "
                    "parameter groups.\n"
                    "  Make the parameter groups as they were when the checkpoint was written.",
                    initial_lrs.size(), initial_lrs_.size()));
  }
  count_ = count;
  initial_lrs_ = std::move(initial_lrs);
  apply();
}

LambdaLR::LambdaLR(torch::optim::Optimizer& optimizer, std::function<double(int64_t)> factor)
    : LRScheduler(optimizer), factor_(std::move(factor)) {
  if (!factor_) {
    throw UsageError(
        "LambdaLR: the function is empty; give one from the count to a factor of the learning "
        "rate.");
  }
  apply();
}

}  // namespace trainer
