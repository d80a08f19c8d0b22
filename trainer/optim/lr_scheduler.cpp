#include <trainer/optim/lr_scheduler.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>

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
  const double present = factor(count_);
  for (size_t i = 0; i < groups.size(); ++i) {
    groups[i].options().set_lr(initial_lrs_[i] * present);
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

StepLR::StepLR(torch::optim::Optimizer& optimizer, int64_t step_size, double gamma)
    : LRScheduler(optimizer), step_size_(step_size), gamma_(gamma) {
  if (step_size < 1) {
    throw UsageError(fmt::format("StepLR: step_size is {}, it must be at least 1.", step_size));
  }
  if (!(gamma >= 0) || std::isinf(gamma)) {
    throw UsageError(fmt::format("StepLR: gamma is {}, it must be a number of at least 0.", gamma));
  }
  apply();
}

double StepLR::factor(int64_t count) const {
  return std::pow(gamma_, static_cast<double>(count / step_size_));
}

WarmupCosineLR::WarmupCosineLR(torch::optim::Optimizer& optimizer, int64_t warmup_steps,
                               int64_t total_steps, double min_factor)
    : LRScheduler(optimizer),
      warmup_steps_(warmup_steps),
      total_steps_(total_steps),
      min_factor_(min_factor) {
  if (warmup_steps < 0 || warmup_steps >= total_steps) {
    throw UsageError(
        fmt::format("WarmupCosineLR: warmup_steps is {} and total_steps is {}; choose 0 <= "
                    "warmup_steps < total_steps.",
                    warmup_steps, total_steps));
  }
  if (!(min_factor >= 0 && min_factor <= 1)) {
    throw UsageError(
        fmt::format("WarmupCosineLR: min_factor is {}, it must be between 0 and 1.", min_factor));
  }
  apply();
}

double WarmupCosineLR::factor(int64_t count) const {
  if (count < warmup_steps_) {
    return static_cast<double>(count + 1) / static_cast<double>(warmup_steps_ + 1);
  }
  if (count >= total_steps_) {
    return min_factor_;
  }
  const double progress = static_cast<double>(count - warmup_steps_) /
                          static_cast<double>(total_steps_ - warmup_steps_);
  return min_factor_ + (1 - min_factor_) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace trainer
