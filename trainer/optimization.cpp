#include <trainer/optimization.h>

#include <algorithm>
#include <typeinfo>
#include <utility>

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/optim/lbfgs.h>

#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/clip.h>
#include <trainer/optim/optimizer_state.h>

namespace trainer {

using C = Callback;

namespace {

std::string name_of(const LRScheduler& scheduler) { return type_name(typeid(scheduler)); }

}  // namespace

Optimization::Optimization(Run& run, int64_t total_steps) : run_(run) {
  OptimizerConfig config = run_.optimizer_choice
                               ? run_.optimizer_choice->create(run_.module, total_steps)
                               : run_.module.configure_optimizers();
  entries_ = std::move(config.entries());
  for (const auto& entry : entries_) {
    if (entry.optimizer == nullptr) {
      throw UsageError(fmt::format("{}::configure_optimizers() returned a null optimizer.",
                                   class_name(run_.module)));
    }
    if (!has_optimizer_state(*entry.optimizer)) {
      optimizer_state(*entry.optimizer);  // throws with what to do: now, not at the first save
    }
  }
  for (const auto& entry : entries_) {
    for (const auto& schedule : entry.lr_schedulers) {
      if (schedule.scheduler->needs_metric() && !schedule.monitor) {
        throw UsageError(fmt::format(
            "{} follows a metric, but its monitor (lr_scheduler_monitor in a configuration) "
            "is not set. Name one that is logged, as val_loss.",
            name_of(*schedule.scheduler)));
      }
    }
  }
  if (run_.precision.needs_grad_scaler()) {
    scaler_.emplace(run_.strategy.device());
  }
  check_settings();
  for (const auto& entry : entries_) {
    steps_of_a_round_ += entry.frequency;
  }
}

void Optimization::check_settings() const {
  const std::string name = class_name(run_.module);
  for (const auto& entry : entries_) {
    if (dynamic_cast<const torch::optim::LBFGS*>(entry.optimizer.get()) == nullptr) {
      continue;
    }
    if (scaler_) {
      throw ConfigError(fmt::format(
          "trainer.precision is {}, in which a step evaluates the loss once; LBFGS evaluates it "
          "several times. Train in bf16-mixed or 32-true.",
          run_.precision.name()));
    }
    if (run_.strategy.world_size() > 1) {
      throw ConfigError(
          "LBFGS looks at the loss between its evaluations, and each process has a loss of its "
          "own: "
          "they would part. Train in one process, or with another optimizer.");
    }
    if (run_.module.automatic_optimization() &&
        run_.config.accumulate_grad_batches != Accumulation(1)) {
      throw ConfigError(
          "trainer.accumulate_grad_batches has no meaning for LBFGS, which evaluates the loss of a "
          "batch several times in a step. Set it to 1 and make the batches larger.");
    }
  }
  if (run_.module.automatic_optimization()) {
    if (entries_.empty()) {
      throw UsageError(
          fmt::format("{}::configure_optimizers() returned no optimizer. Return one, or turn "
                      "automatic_optimization() off.",
                      name));
    }
    check_turns();
    return;
  }
  const char* setting = run_.config.gradient_clip_val ? "gradient_clip_val"
                        : run_.config.accumulate_grad_batches != Accumulation(1)
                            ? "accumulate_grad_batches"
                            : nullptr;
  if (setting != nullptr) {
    throw ConfigError(fmt::format(
        "trainer.{} has no effect on {}, which optimizes by hand (automatic_optimization() is "
        "false). Unset it, and do it in training_step().",
        setting, name));
  }
}

void Optimization::check_turns() const {
  for (const auto& entry : entries_) {
    if (entries_.size() > 1 && entry.frequency < 1) {
      throw UsageError(fmt::format(
          "{}::configure_optimizers() returned {} optimizers, one of them with frequency {}. For "
          "automatic optimization give each a frequency of 1 or more, the steps that it takes in a "
          "row; or override automatic_optimization() to return false, and step them in "
          "training_step().",
          class_name(run_.module), entries_.size(), entry.frequency));
    }
  }
}

size_t Optimization::turn(int64_t global_step) const {
  size_t index = 0;
  if (entries_.size() > 1) {
    int64_t step = global_step % steps_of_a_round_;
    for (; step >= entries_[index].frequency; ++index) {
      step -= entries_[index].frequency;
    }
  }
  return index;
}

/// The steps that one optimizer has taken among the first `global_step`.
int64_t Optimization::steps_of(size_t index, int64_t global_step) const {
  if (entries_.size() == 1) {
    return global_step;
  }
  const int64_t whole_rounds = global_step / steps_of_a_round_;
  int64_t begin = 0;
  for (size_t i = 0; i < index; ++i) {
    begin += entries_[i].frequency;
  }
  const int64_t frequency = entries_[index].frequency;
  const int64_t of_this_round = global_step % steps_of_a_round_ - begin;
  return whole_rounds * frequency + std::clamp<int64_t>(of_this_round, 0, frequency);
}

torch::optim::Optimizer& Optimization::optimizer(size_t index) {
  if (index >= entries_.size()) {
    throw UsageError(
        fmt::format("optimizer({}): configure_optimizers() returned {}.", index, entries_.size()));
  }
  return *entries_[index].optimizer;
}

std::vector<LRScheduler*> Optimization::lr_schedulers() {
  std::vector<LRScheduler*> all;
  for (const auto& entry : entries_) {
    for (const auto& schedule : entry.lr_schedulers) {
      all.push_back(schedule.scheduler.get());
    }
  }
  return all;
}

void Optimization::backward(const torch::Tensor& loss) {
  const auto weighted = loss_weight_ == 1 ? loss : loss * loss_weight_;
  run_.callbacks.call<&C::on_before_backward>(weighted);
  run_.module.on_before_backward(weighted);
  backward_ran_ = true;
  run_.module.backward(scaler_ ? scaler_->scale(weighted) : weighted);
  run_.callbacks.call<&C::on_after_backward>();
  run_.module.on_after_backward();
}

/// Nothing to do where no backward pass ran since the last one: clip and step both ask for it. But
/// a strategy that shards shows gradients only from here to the end of an optimizer's step.
void Optimization::finish_gradient_sync() {
  if (std::exchange(backward_ran_, false) || run_.strategy.sharding() != nullptr) {
    run_.strategy.finish_gradient_sync();
  }
}

void Optimization::zero_grad(torch::optim::Optimizer& optimizer) {
  run_.strategy.zero_gradients(optimizer);
}

torch::Tensor Optimization::clip_by_norm(torch::optim::Optimizer& optimizer, double max_norm) {
  finish_gradient_sync();
  unscale(optimizer);
  return run_.strategy.clip_gradients(optimizer, max_norm);
}

void Optimization::clip_by_value(torch::optim::Optimizer& optimizer, double max_value) {
  finish_gradient_sync();
  unscale(optimizer);
  auto all = gradients(optimizer);
  trainer::clip_by_value(all, max_value);
}

torch::Tensor Optimization::step(torch::optim::Optimizer& optimizer, const Closure& closure) {
  auto evaluate = [&] {
    torch::Tensor loss = closure ? closure() : torch::Tensor();
    finish_gradient_sync();
    unscale(optimizer);
    run_.callbacks.call<&C::on_before_optimizer_step>(optimizer);
    run_.module.on_before_optimizer_step(optimizer);
    skip_if_not_finite(optimizer);
    return loss;
  };
  auto loss = run_.strategy.optimizer_step(optimizer, std::ref(evaluate));
  ++run_.progress.global_step;
  if (run_.precision.is_mixed()) {
    at::autocast::clear_cache();  // of the weights that this step changed, should more follow
  }
  return loss;
}

void Optimization::unscale(torch::optim::Optimizer& optimizer) {
  if (scaler_) {
    scaler_->unscale(optimizer);
    if (run_.strategy.sharding() != nullptr) {
      run_.strategy.all_reduce(scaler_->found_inf(optimizer), ReduceOp::kMax);
    }
  }
}

void Optimization::skip_if_not_finite(torch::optim::Optimizer& optimizer) {
  if (scaler_) {
    scaler_->prepare_step(optimizer);
  }
}

void Optimization::update_scale() {
  if (scaler_) {
    scaler_->update();
  }
}

void Optimization::check_scale() const {
  if (scaler_ && scaler_->get_scale() < 1) {
    log::warning(fmt::format(
        "{}: the scale of the loss fell to {}: gradients are infinite or NaN step after step, and "
        "such steps change nothing. Look for NaN in the data, or train in bf16-mixed.",
        run_.precision.name(), scaler_->get_scale()));
  }
}

template <class F>
void Optimization::for_each_due(Interval interval, int64_t intervals_done, const F& step) {
  if (!run_.module.automatic_optimization()) {
    return;
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    const bool counts_steps = interval == Interval::kStep;
    if (counts_steps && turn(intervals_done - 1) != i) {
      continue;
    }
    const int64_t done = counts_steps ? steps_of(i, intervals_done) : intervals_done;
    for (const auto& schedule : entries_[i].lr_schedulers) {
      if (schedule.interval == interval && done % schedule.frequency == 0) {
        step(schedule);
      }
    }
  }
}

void Optimization::step_lr_schedulers(Interval interval, int64_t intervals_done) {
  for_each_due(interval, intervals_done, [&](const LRSchedulerConfig& schedule) {
    if (!schedule.scheduler->needs_metric()) {
      run_.module.lr_scheduler_step(*schedule.scheduler, std::nullopt);
    }
  });
}

void Optimization::step_metric_schedulers(Interval interval, int64_t intervals_done,
                                          const FindMetric& find) {
  for_each_due(interval, intervals_done, [&](const LRSchedulerConfig& schedule) {
    if (!schedule.scheduler->needs_metric()) {
      return;
    }
    const auto metric = find(*schedule.monitor);
    if (metric) {
      run_.module.lr_scheduler_step(*schedule.scheduler, metric);
    } else if (schedule.strict) {
      throw UsageError(fmt::format(
          "{}: its monitor '{}' was not logged before the schedule is stepped. Log it, change the "
          "monitor (lr_scheduler_monitor in a configuration), step it at the end of epochs "
          "(lr_scheduler_interval: epoch), or set strict to false in configure_optimizers().",
          name_of(*schedule.scheduler), *schedule.monitor));
    }
  });
}

void Optimization::show_training_parameters() {
  shows_evaluation_ = false;
  switch_parameters(&ModeSwitching::train);
}

void Optimization::show_evaluation_parameters() {
  shows_evaluation_ = true;
  switch_parameters(&ModeSwitching::eval);
}

void Optimization::switch_parameters(void (ModeSwitching::*to)()) {
  Sharding* const sharding = run_.strategy.sharding();
  for (const auto& entry : entries_) {
    if (auto* switching = dynamic_cast<ModeSwitching*>(entry.optimizer.get())) {
      const auto scope = sharding != nullptr ? sharding->segments() : nullptr;
      (switching->*to)();
    }
  }
}

nlohmann::json Optimization::state_dict() const {
  auto schedules = nlohmann::json::array();
  for (const auto& entry : entries_) {
    for (const auto& schedule : entry.lr_schedulers) {
      schedules.push_back(schedule.scheduler->state_dict());
    }
  }
  return {{"lr_schedulers", std::move(schedules)},
          {"grad_scaler", scaler_ ? scaler_->state_dict() : nlohmann::json()}};
}

void Optimization::load_state_dict(const nlohmann::json& state) {
  const auto& states = state.at("lr_schedulers");
  const auto schedulers = lr_schedulers();
  if (states.size() != schedulers.size()) {
    throw CheckpointError(
        fmt::format("the checkpoint has {} learning-rate schedules, the module's "
                    "configure_optimizers() returned "
                    "{}. Resume with the same ones.",
                    states.size(), schedulers.size()));
  }
  for (size_t i = 0; i < schedulers.size(); ++i) {
    schedulers[i]->load_state_dict(states[i]);
  }
  if (const auto& saved = state.at("grad_scaler"); scaler_ && !saved.is_null()) {
    scaler_->load_state_dict(saved);
  }
}

void with_evaluation_parameters(Optimization& optimization, Strategy& strategy,
                                const std::function<void()>& body) {
  if (optimization.shows_evaluation_parameters()) {
    body();
    return;
  }
  optimization.show_evaluation_parameters();
  try {
    body();
  } catch (const OnEveryRank&) {
    optimization.show_training_parameters();
    throw;
  } catch (...) {
    if (strategy.sharding() == nullptr) {
      optimization.show_training_parameters();
    }
    throw;
  }
  optimization.show_training_parameters();
}

}  // namespace trainer
