#include <trainer/optim/lr_schedules.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/optim/momentum.h>

namespace trainer {
namespace {

template <class Init>
Init checked(Init init, const char* scheduler) {
  config::check(init, scheduler);
  return init;
}

/// The steps that were given, or else those of the run.
int64_t length(std::optional<int64_t> given, LRSchedulerContext context, std::string_view scheduler,
               std::string_view key) {
  if (given) {
    return *given;
  }
  if (context.total_steps < 0) {
    throw ConfigError(fmt::format(
        "{0}: {1} is not set, and the number of steps of the run is not known.\n"
        "  Set {1}, or give the run an end: max_steps, or max_epochs over data of a known size.",
        scheduler, key));
  }
  return std::max<int64_t>(1, context.total_steps);
}

double as_double(int64_t value) { return static_cast<double>(value); }

/// The linear rise that never runs a step with 0.
double warmup(int64_t count, int64_t warmup_steps) {
  return as_double(count + 1) / (as_double(warmup_steps) + 1);
}

/// Half a cosine: 1 at 0, 0 at 1.
double cosine(double progress) { return (1 + std::cos(std::numbers::pi * progress)) / 2; }

}  // namespace

ConstantLR::ConstantLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(init, "ConstantLR")) {
  apply();
}

double ConstantLR::lr(double initial_lr, int64_t count) const {
  return count < init_.total_iters ? initial_lr * init_.factor : initial_lr;
}

LinearLR::LinearLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(init, "LinearLR")) {
  apply();
}

double LinearLR::lr(double initial_lr, int64_t count) const {
  const double progress =
      as_double(std::min(count, init_.total_iters)) / as_double(init_.total_iters);
  return initial_lr * (init_.start_factor + (init_.end_factor - init_.start_factor) * progress);
}

LinearWarmupLR::LinearWarmupLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(init, "LinearWarmupLR")) {
  apply();
}

double LinearWarmupLR::lr(double initial_lr, int64_t count) const {
  return count < init_.warmup_steps ? initial_lr * warmup(count, init_.warmup_steps) : initial_lr;
}

StepLR::StepLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(init, "StepLR")) {
  apply();
}

double StepLR::lr(double initial_lr, int64_t count) const {
  return initial_lr * std::pow(init_.gamma, as_double(count / init_.step_size));
}

void MultiStepLR::Init::validate() const {
  if (!std::is_sorted(milestones.begin(), milestones.end())) {
    throw ConfigError(
        fmt::format("milestones are [{}], they have to be in order.", fmt::join(milestones, ", ")));
  }
}

MultiStepLR::MultiStepLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(std::move(init), "MultiStepLR")) {
  apply();
}

double MultiStepLR::lr(double initial_lr, int64_t count) const {
  const auto& milestones = init_.milestones;
  const auto reached = std::upper_bound(milestones.begin(), milestones.end(), count);
  return initial_lr * std::pow(init_.gamma, as_double(reached - milestones.begin()));
}

ExponentialLR::ExponentialLR(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(checked(init, "ExponentialLR")) {
  apply();
}

double ExponentialLR::lr(double initial_lr, int64_t count) const {
  return initial_lr * std::pow(init_.gamma, as_double(count));
}

PolynomialLR::PolynomialLR(torch::optim::Optimizer& optimizer, Init init,
                           LRSchedulerContext context)
    : LRScheduler(optimizer),
      total_iters_(length(checked(init, "PolynomialLR").total_iters, context, "PolynomialLR",
                          "total_iters")),
      power_(init.power) {
  apply();
}

double PolynomialLR::lr(double initial_lr, int64_t count) const {
  const double progress = as_double(std::min(count, total_iters_)) / as_double(total_iters_);
  return initial_lr * std::pow(1 - progress, power_);
}

CosineAnnealingLR::CosineAnnealingLR(torch::optim::Optimizer& optimizer, Init init,
                                     LRSchedulerContext context)
    : LRScheduler(optimizer),
      T_max_(
          length(checked(init, "CosineAnnealingLR").T_max, context, "CosineAnnealingLR", "T_max")),
      eta_min_(init.eta_min) {
  apply();
}

double CosineAnnealingLR::lr(double initial_lr, int64_t count) const {
  return eta_min_ + (initial_lr - eta_min_) * cosine(as_double(count) / as_double(T_max_));
}

CosineAnnealingWarmRestarts::CosineAnnealingWarmRestarts(torch::optim::Optimizer& optimizer,
                                                         Init init)
    : LRScheduler(optimizer), init_(checked(init, "CosineAnnealingWarmRestarts")) {
  apply();
}

double CosineAnnealingWarmRestarts::lr(double initial_lr, int64_t count) const {
  int64_t length = init_.T_0;
  int64_t position = count;
  if (init_.T_mult == 1) {
    position %= length;
  } else {
    while (position >= length) {
      position -= length;
      constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
      length = length > kMax / init_.T_mult ? kMax : length * init_.T_mult;
    }
  }
  return init_.eta_min +
         (initial_lr - init_.eta_min) * cosine(as_double(position) / as_double(length));
}

OneCycleLR::OneCycleLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context)
    : LRScheduler(optimizer),
      init_(checked(std::move(init), "OneCycleLR")),
      total_steps_(length(init_.total_steps, context, "OneCycleLR", "total_steps")) {
  for (const auto& group : optimizer.param_groups()) {
    if (init_.cycle_momentum && !has_momentum(group.options())) {
      throw ConfigError(
          "OneCycleLR: cycle_momentum is true, but the optimizer has neither momentum nor betas. "
          "Turn cycle_momentum off, or choose another optimizer.");
    }
  }
  const double total = as_double(total_steps_);
  const double first = 1 / init_.div_factor;
  const double last = first / init_.final_div_factor;
  phases_.push_back(
      {init_.pct_start * total - 1, first, 1, init_.max_momentum, init_.base_momentum});
  if (init_.three_phase) {
    phases_.push_back(
        {2 * init_.pct_start * total - 2, 1, first, init_.base_momentum, init_.max_momentum});
    phases_.push_back({total - 1, first, last, init_.max_momentum, init_.max_momentum});
  } else {
    phases_.push_back({total - 1, 1, last, init_.base_momentum, init_.max_momentum});
  }
  apply();
}

std::pair<const OneCycleLR::Phase&, double> OneCycleLR::at(int64_t count) const {
  const double step = as_double(std::min(count, total_steps_ - 1));
  double start = 0;
  size_t i = 0;
  while (i + 1 < phases_.size() && step > phases_[i].end) {
    start = phases_[i].end;
    ++i;
  }
  const double steps = phases_[i].end - start;
  return {phases_[i], steps == 0 ? 1 : (step - start) / steps};
}

double OneCycleLR::anneal(double progress, double from, double to) const {
  if (init_.anneal_strategy == "linear") {
    return (to - from) * progress + from;
  }
  return to + (from - to) * cosine(progress);
}

double OneCycleLR::lr(double initial_lr, int64_t count) const {
  const auto [phase, progress] = at(count);
  const double peak = init_.max_lr.value_or(initial_lr);
  return anneal(progress, peak * phase.from_lr, peak * phase.to_lr);
}

std::optional<double> OneCycleLR::momentum(int64_t count) const {
  if (!init_.cycle_momentum) {
    return std::nullopt;
  }
  const auto [phase, progress] = at(count);
  return anneal(progress, phase.from_momentum, phase.to_momentum);
}

void WarmupCosineLR::Init::validate() const {
  if (total_steps && warmup_steps >= *total_steps) {
    throw ConfigError(fmt::format(
        "warmup_steps is {} and total_steps is {}; choose 0 <= warmup_steps < total_steps.",
        warmup_steps, *total_steps));
  }
}

WarmupCosineLR::WarmupCosineLR(torch::optim::Optimizer& optimizer, Init init,
                               LRSchedulerContext context)
    : LRScheduler(optimizer),
      init_(checked(init, "WarmupCosineLR")),
      total_steps_(std::max(length(init_.total_steps, context, "WarmupCosineLR", "total_steps"),
                            init_.warmup_steps)) {
  apply();
}

double WarmupCosineLR::lr(double initial_lr, int64_t count) const {
  if (count < init_.warmup_steps) {
    return initial_lr * warmup(count, init_.warmup_steps);
  }
  if (count >= total_steps_) {
    return initial_lr * init_.min_factor;
  }
  const double progress =
      as_double(count - init_.warmup_steps) / as_double(total_steps_ - init_.warmup_steps);
  return initial_lr * (init_.min_factor + (1 - init_.min_factor) * cosine(progress));
}

void WSDLR::Init::validate() const {
  if (total_steps && (warmup_steps > *total_steps || decay_steps > *total_steps - warmup_steps)) {
    throw ConfigError(fmt::format(
        "warmup_steps is {}, decay_steps is {} and total_steps is {}; choose warmup_steps + "
        "decay_steps <= total_steps.",
        warmup_steps, decay_steps, *total_steps));
  }
}

WSDLR::WSDLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context)
    : LRScheduler(optimizer),
      init_(checked(std::move(init), "WSDLR")),
      decay_start_(
          std::max(length(init_.total_steps, context, "WSDLR", "total_steps") - init_.decay_steps,
                   init_.warmup_steps)) {
  apply();
}

double WSDLR::lr(double initial_lr, int64_t count) const {
  if (count < init_.warmup_steps) {
    return initial_lr * warmup(count, init_.warmup_steps);
  }
  const double progress =
      std::clamp(as_double(count - decay_start_) / as_double(init_.decay_steps), 0.0, 1.0);
  const double rest = init_.decay == "linear"   ? 1 - progress
                      : init_.decay == "cosine" ? cosine(progress)
                                                : 1 - std::sqrt(progress);
  return initial_lr * (init_.min_factor + (1 - init_.min_factor) * rest);
}

}  // namespace trainer
