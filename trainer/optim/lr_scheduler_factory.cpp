#include <trainer/optim/lr_scheduler_factory.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

/// Makes one of several schedulers, each of which is to see the optimizer as the first one did.
std::unique_ptr<LRScheduler> create_part(const Spec<LRSchedulerFactory>& spec,
                                         torch::optim::Optimizer& optimizer,
                                         LRSchedulerContext context, std::string_view whole) {
  std::vector<double> lrs;
  for (const auto& group : optimizer.param_groups()) {
    lrs.push_back(group.options().get_lr());
  }
  auto scheduler = spec.create()->create(optimizer, context);
  auto lr = lrs.begin();
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(*lr++);
  }
  if (scheduler->needs_metric()) {
    throw ConfigError(
        fmt::format("{0}: {1} needs a metric and cannot be part of {0}; use it alone.", whole,
                    spec.class_path));
  }
  return scheduler;
}

}  // namespace

void ChainedScheduler::Init::validate() const {
  if (schedulers.empty()) {
    throw ConfigError("schedulers is empty; give at least one.");
  }
}

ChainedScheduler::ChainedScheduler(torch::optim::Optimizer& optimizer, const Init& init,
                                   LRSchedulerContext context)
    : LRScheduler(optimizer) {
  config::check(init, "ChainedScheduler");
  for (const auto& spec : init.schedulers) {
    schedulers_.push_back(create_part(spec, optimizer, context, "ChainedScheduler"));
  }
  apply();
}

double ChainedScheduler::lr(double initial_lr, int64_t count) const {
  double present = initial_lr;
  for (const auto& scheduler : schedulers_) {
    present = scheduler->lr(present, count);
  }
  return present;
}

std::optional<double> ChainedScheduler::momentum(int64_t count) const {
  std::optional<double> present;
  for (const auto& scheduler : schedulers_) {
    if (const auto own = scheduler->momentum(count)) {
      present = own;
    }
  }
  return present;
}

void SequentialLR::Init::validate() const {
  if (schedulers.empty() || milestones.size() != schedulers.size() - 1) {
    throw ConfigError(fmt::format(
        "has {} schedulers and {} milestones; give at least one scheduler, and one milestone fewer "
        "than schedulers.",
        schedulers.size(), milestones.size()));
  }
  int64_t before = 0;
  for (const int64_t milestone : milestones) {
    if (milestone <= before) {
      throw ConfigError(fmt::format("milestones are [{}], they have to rise, from above 0.",
                                    fmt::join(milestones, ", ")));
    }
    before = milestone;
  }
}

SequentialLR::SequentialLR(torch::optim::Optimizer& optimizer, const Init& init,
                           LRSchedulerContext context)
    : LRScheduler(optimizer), milestones_(init.milestones) {
  config::check(init, "SequentialLR");
  int64_t start = 0;
  for (size_t i = 0; i < init.schedulers.size(); ++i) {
    const bool is_last = i == milestones_.size();
    const int64_t end = is_last ? context.total_steps : milestones_[i];
    const bool is_known = !is_last || context.total_steps >= 0;
    const LRSchedulerContext part = {is_known ? std::max<int64_t>(0, end - start) : -1};
    schedulers_.push_back(create_part(init.schedulers[i], optimizer, part, "SequentialLR"));
    start = end;
  }
  apply();
}

std::pair<const LRScheduler&, int64_t> SequentialLR::at(int64_t count) const {
  const auto next = std::upper_bound(milestones_.begin(), milestones_.end(), count);
  const int64_t start = next == milestones_.begin() ? 0 : *(next - 1);
  return {*schedulers_[static_cast<size_t>(next - milestones_.begin())], count - start};
}

double SequentialLR::lr(double initial_lr, int64_t count) const {
  const auto [scheduler, own_count] = at(count);
  return scheduler.lr(initial_lr, own_count);
}

std::optional<double> SequentialLR::momentum(int64_t count) const {
  const auto [scheduler, own_count] = at(count);
  return scheduler.momentum(own_count);
}

}  // namespace trainer
