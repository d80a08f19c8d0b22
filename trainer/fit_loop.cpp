#include <trainer/fit_loop.h>

#include <csignal>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/hash.h>
#include <trainer/core/json.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/loss_check.h>
#include <trainer/repetition_scope.h>
#include <trainer/signals.h>

namespace trainer {

using C = Callback;

FitLoop::FitLoop(Run& run, const bool& should_stop)
    : run_(run),
      module_(run.module),
      strategy_(run.strategy),
      callbacks_(run.callbacks),
      progress_(run.progress),
      should_stop_(should_stop),
      // A scaler skips such steps, and warns when it does nothing else.
      checks_finite_loss_(run.config.check_finite_loss && !run.precision.needs_grad_scaler()),
      limits_(run.config),
      data_(run),
      validation_(run),
      agreement_(run.strategy),
      checkpointed_(run.config.activation_checkpointing, run.module) {
  (run.config.gradient_clip_algorithm == "norm" ? clip_norm_ : clip_value_) =
      run.config.gradient_clip_val;
}

void FitLoop::setup() {
  const std::function<int64_t()> estimate = [this] { return estimated_stepping_batches(); };
  const ModuleAttachment attachment(module_, {.estimate_steps = &estimate});
  optimization_ = std::make_unique<Optimization>(run_, estimated_schedule_steps());
}

int64_t FitLoop::estimated_stepping_batches() {
  if (!data_.is_open()) {
    data_.open();
  }
  return limits_.max_steps(data_.num_batches(), run_.config.accumulate_grad_batches);
}

int64_t FitLoop::estimated_schedule_steps() {
  const auto& choice = run_.optimizer_choice;
  if (!choice || !choice->lr_scheduler) {
    return -1;
  }
  const int64_t steps =
      choice->interval == Interval::kEpoch ? limits_.max_epochs() : estimated_stepping_batches();
  return steps < 0 ? -1 : steps / choice->frequency;
}

/// Ranks draw different numbers from here on: for dropout, say. Rank 0 draws what a process of its
/// own would; after so many steps, since a checkpoint of fewer ranks has no state for this one.
void FitLoop::seed_rank() {
  if (const auto rank = static_cast<uint64_t>(strategy_.rank()); rank > 0) {
    const uint64_t seed = derive_seed(global_seed(), static_cast<uint64_t>(progress_.global_step));
    torch::manual_seed(derive_seed(seed, rank));
  }
}

void FitLoop::run() {
  const ModuleAttachment attachment(
      module_, {.metrics = &metrics_, .progress = &progress_, .optimization = optimization_.get()});
  run_sanity_check();
  if (!data_.is_open()) {
    data_.open();
  }
  data_.check_restored();
  validation_.plan(data_.num_batches());
  began_ = std::chrono::steady_clock::now();
  if (restored_rng_.empty() && !is_resumed_) {
    seed_rank();
  }
  module_.train();
  metrics_.enter(MetricCollector::Scope::kEpoch, "on_train_start");
  callbacks_.call<&C::on_train_start>();
  module_.on_train_start();
  if (!restored_rng_.empty()) {
    set_rng_state(
        std::exchange(restored_rng_, {}));  // last: the hooks above may have drawn numbers
  }
  if (is_done()) {
    log::info(fmt::format("nothing to train: after epoch {} and step {} a limit is reached already",
                          progress_.current_epoch, progress_.global_step));
  }
  if (is_done() && epoch_started_ && progress_.batch_idx > 0) {
    if (!validation_.is_due(training_s(), data_.epoch_is_over()) || validate()) {
      end_epoch();  // its rows were cut, as they came after the checkpoint
    }
  }
  while (!is_done() && !stop_is_requested()) {
    run_epoch();
  }
  metrics_.enter(MetricCollector::Scope::kForbidden, "on_train_end");
  callbacks_.call<&C::on_train_end>();
  module_.on_train_end();
}

void FitLoop::run_sanity_check() {
  const int64_t wanted = run_.config.num_sanity_val_steps;
  sanity_checking_ = wanted != 0 && progress_.global_step == 0;
  if (sanity_checking_) {
    callbacks_.call<&C::on_sanity_check_start>();
  }
  validation_.open();
  if (sanity_checking_) {
    validation_.run_sanity_check(wanted);
    callbacks_.call<&C::on_sanity_check_end>();
    sanity_checking_ = false;
  }
}

void FitLoop::prepare_data_of_epoch() {
  const int64_t every = run_.config.reload_dataloaders_every_n_epochs;
  const bool is_due =
      every > 0 && progress_.current_epoch > 0 && progress_.current_epoch % every == 0;
  if (is_due) {
    data_.open();
    validation_.open();
  }
  if (is_due || data_.begin_epoch()) {
    validation_.plan(data_.num_batches());
  }
}

void FitLoop::run_epoch() {
  if (!epoch_started_) {
    prepare_data_of_epoch();
    metrics_.enter(MetricCollector::Scope::kEpoch, "on_train_epoch_start");
    callbacks_.call<&C::on_train_epoch_start>();
    module_.on_train_epoch_start();
    epoch_started_ = true;
  }
  data_.start();
  bool validation_is_pending = false;
  for (;;) {
    if (at_step_edge()) {
      if (validation_.is_due(training_s(), data_.epoch_is_over()) && !validate()) {
        validation_is_pending = true;
        break;
      }
      if (std::exchange(stepped_, false)) {
        step_metric_schedulers(Interval::kStep, progress_.global_step);
      }
      if (data_.epoch_is_over() || is_done() || stop_is_requested()) {
        break;
      }
      if (!data_.fetch_window()) {
        step_epoch_schedulers();  // no batch was known to be the last
        continue;
      }
      if (data_.window_has_no_samples()) {
        skip_window();
        continue;
      }
    }
    auto [batch, place] = data_.next();
    if (!train_batch(std::move(batch), place)) {
      data_.skip_rest();
      break;
    }
  }
  data_.stop();
  if (!data_.epoch_is_over() || validation_is_pending) {
    callbacks_.call<&C::on_train_stop>();
    if (stop_signal() != 0) {
      return;  // the epoch is not over: a resumed run finishes it
    }
  }
  end_epoch();
}

/// There is nothing to take a step with.
void FitLoop::skip_window() {
  const int64_t batches = data_.drop_window();
  progress_.batch_idx += batches;
  progress_.batches += batches;
  if (data_.epoch_is_over()) {
    step_epoch_schedulers();
  }
}

bool FitLoop::train_batch(Batch cpu_batch, const TrainingData::Place& place) {
  in_step_ = true;
  const int64_t batch_idx = progress_.batch_idx;
  progress_.dataloader_idx = place.dataloader_idx;
  const Batch batch = run_.transfer(std::move(cpu_batch));
  const RepetitionScope repetition(run_, /*is_repeated=*/!place.counts);
  metrics_.enter(MetricCollector::Scope::kTrainBatch, "training_step",
                 place.counts ? batch.size() : 0);
  callbacks_.call<&C::on_train_batch_start>(batch, batch_idx);
  if (!module_.on_train_batch_start(batch, batch_idx)) {
    in_step_ = false;
    return false;
  }
  const auto loss =
      module_.automatic_optimization() ? optimize(batch, place) : optimize_by_hand(batch, place);
  strategy_.end_step();
  checkpointed_.tell_of_unused();
  if (place.is_last) {
    hear_ranks();
  }
  ++progress_.batch_idx;
  ++progress_.batches;
  progress_.samples += place.samples;
  progress_.stepped_batches += place.is_last ? 1 : 0;
  if (data_.epoch_is_over()) {
    step_epoch_schedulers();
  }
  in_step_ = false;
  stepped_ = place.is_last;

  callbacks_.call_acting<&C::on_train_batch_end>(loss, batch, batch_idx);
  module_.on_train_batch_end(loss, batch, batch_idx);
  if (place.is_last) {
    log_step_metrics();
  }
  callbacks_.call_monitoring<&C::on_train_batch_end>(loss, batch, batch_idx);
  return true;
}

/// The training step itself. Forward and backward pass are the closure that the optimizer
/// evaluates, so that optimizers which evaluate more than once, and overridden optimizer_step()s,
/// work.
torch::Tensor FitLoop::optimize(const Batch& batch, const TrainingData::Place& place) {
  const size_t turn = optimization_->turn(progress_.global_step);
  auto& optimizer = optimization_->optimizer(turn);
  progress_.optimizer_idx = static_cast<int64_t>(turn);
  const ToggleScope others_off(*optimization_, {*optimization_, optimizer});
  strategy_.require_gradient_sync(place.is_last);
  if (place.is_last) {
    tell_ranks();
  }

  auto evaluate = [&] {
    torch::Tensor loss;
    {
      const auto autocast = run_.precision.autocast(strategy_.device());
      loss = module_.training_step(batch, progress_.batch_idx);
    }
    check_loss(module_, loss);
    if (checks_finite_loss_) {
      check_finite(loss, batch, progress_);
    }
    if (place.is_first) {
      callbacks_.call<&C::on_before_zero_grad>(optimizer);
      module_.on_before_zero_grad(optimizer);
      module_.optimizer_zero_grad(optimizer, strategy_);
    }
    optimization_->backward(place.weight == 1.0 ? loss : loss * place.weight);
    return loss.variable_data();  // detached, without a trip through the dispatcher
  };
  auto evaluate_for_step = [&] {
    auto loss = evaluate();
    strategy_.finish_gradient_sync();
    optimization_->unscale(optimizer);
    callbacks_.call<&C::on_before_optimizer_step>(optimizer);
    module_.on_before_optimizer_step(optimizer);
    module_.configure_gradient_clipping(optimizer, strategy_, clip_norm_, clip_value_);
    optimization_->skip_if_not_finite(optimizer);
    return loss;
  };

  if (!place.is_last) {
    return evaluate();
  }
  auto loss = module_.optimizer_step(optimizer, strategy_, std::ref(evaluate_for_step));
  ++progress_.global_step;
  optimization_->update_scale();
  optimization_->step_lr_schedulers(Interval::kStep, progress_.global_step);
  return loss;
}

torch::Tensor FitLoop::optimize_by_hand(const Batch& batch, const TrainingData::Place& place) {
  strategy_.require_gradient_sync(false);  // any backward pass may be followed by another one
  optimization_->set_loss_weight(place.weight);
  tell_ranks();
  const auto autocast = run_.precision.autocast(strategy_.device());
  const auto loss = module_.training_step(batch, progress_.batch_idx);
  optimization_->update_scale();
  if (!loss.defined()) {
    return loss;
  }
  if (checks_finite_loss_) {
    check_finite(loss, batch, progress_);
  }
  return loss.variable_data();
}

void FitLoop::end_epoch() {
  metrics_.enter(MetricCollector::Scope::kEpoch, "on_train_epoch_end");
  callbacks_.call_acting<&C::on_train_epoch_end>();
  module_.on_train_epoch_end();
  publish_step_values();  // where a name has an epoch value too, that one follows and wins
  run_.publish_epoch(metrics_);
  const bool is_whole = data_.epoch_is_over();
  optimization_->check_scale();
  if (is_whole) {
    step_metric_schedulers(Interval::kEpoch, progress_.current_epoch + 1);
  }
  metrics_.reset_epoch();
  epoch_done_ = is_whole;
  callbacks_.call_monitoring<&C::on_train_epoch_end>();
  epoch_done_ = false;
  agree_now();
  if (is_whole) {
    ++progress_.current_epoch;
    progress_.batch_idx = 0;
    validation_.begin_epoch();
    epoch_started_ = false;
  }
}

bool FitLoop::validate() {
  if (stop_signal() != 0) {
    return false;
  }
  publish_step_values();  // what validation logs is newer
  module_.on_validation_model_zero_grad();
  strategy_.broadcast_buffers(module_);
  bool is_whole = false;
  with_evaluation_parameters(*optimization_, strategy_, [&] {
    is_whole = validation_.run(training_s());
    agree_now();
  });
  return is_whole;
}

void FitLoop::publish_step_values() {
  for (const auto& [name, value] : metrics_.new_values()) {
    run_.metrics.newest[name] = value;
  }
  for (const auto& [name, value] : metrics_.progress_bar_metrics()) {
    run_.metrics.prog_bar[name] = value;
  }
  metrics_.forget_new_values();
}

void FitLoop::step_epoch_schedulers() {
  optimization_->step_lr_schedulers(Interval::kEpoch, progress_.current_epoch + 1);
}

void FitLoop::step_metric_schedulers(Interval interval, int64_t intervals_done) {
  optimization_->step_metric_schedulers(
      interval, intervals_done, [&](const std::string& name) -> std::optional<double> {
        publish_step_values();
        const auto found = run_.metrics.newest.find(name);
        std::optional<double> value;
        if (found != run_.metrics.newest.end()) {
          value = found->second;
        }
        return of_first_rank(strategy_, value);  // the value of a step is each rank's own
      });
}

void FitLoop::log_step_metrics() {
  const int64_t interval = run_.config.log_every_n_steps;
  if (interval > 0 && progress_.stepped_batches % interval == 0) {
    run_.log_metrics(metrics_.step_metrics());
  }
}

/// Reads the clock only where a setting asks for it.
double FitLoop::own_training_s() const {
  if (!began_ || (!limits_.has_time() && !validation_.has_time())) {
    return trained_before_s_;
  }
  const std::chrono::duration<double> now = std::chrono::steady_clock::now() - *began_;
  return trained_before_s_ + now.count();
}

/// The end of the job's time is as a notice of it by SIGUSR1.
int FitLoop::wanted_stop() const {
  const int signal = SignalScope::received();
  return signal == 0 && deadline_.is_near() ? SIGUSR1 : signal;
}

RankAgreement::Wishes FitLoop::own_wishes() const {
  return {.should_stop = should_stop_, .signal = wanted_stop(), .training_s = own_training_s()};
}

/// A rank of its own has nobody to ask, and stops at once.
RankAgreement::Wishes FitLoop::agreed() const {
  return strategy_.world_size() == 1 ? own_wishes() : agreement_.agreed();
}

void FitLoop::tell_ranks() {
  if (strategy_.world_size() > 1) {
    agreement_.tell(own_wishes());
  }
}

void FitLoop::hear_ranks() {
  if (strategy_.world_size() > 1) {
    agreement_.hear();
  }
}

/// Where no step is near and ranks meet anyway.
void FitLoop::agree_now() {
  tell_ranks();
  hear_ranks();
}

bool FitLoop::is_done() const { return limits_.is_reached(progress_, training_s()); }

bool FitLoop::stop_is_requested() const {
  const auto wishes = agreed();
  return wishes.signal != 0 || (wishes.should_stop && limits_.may_stop(progress_));
}

void FitLoop::load_state_of_rank(const nlohmann::json& ranks) {
  const auto rank = static_cast<size_t>(strategy_.rank());
  const bool is_same_world = ranks.size() == static_cast<size_t>(strategy_.world_size());
  auto data = ranks.at(is_same_world ? rank : 0).at("data");
  if (!is_same_world) {
    data["loader"] = nullptr;  // a stream is read up to its position again
  }
  data_.load_state_dict(data);
  if (rank >= ranks.size()) {
    seed_rank();
    return;
  }
  restored_rng_ = hash::from_hex(ranks[rank].at("rng").at("cpu").get<std::string>());
  metrics_.load_state_dict(ranks[rank].at("metrics"), registered_metrics(module_));
  if (!is_same_world && ranks.size() > static_cast<size_t>(strategy_.world_size())) {
    log::warning(fmt::format(
        "resumed on {} ranks from a checkpoint of {}: what the other ranks logged before it in "
        "this epoch is missing in the epoch's metrics",
        strategy_.world_size(), ranks.size()));
  }
}

nlohmann::json FitLoop::state_dict() {
  nlohmann::json state = progress_;
  if (epoch_done_) {
    state["current_epoch"] = progress_.current_epoch + 1;
    state["batch_idx"] = 0;
  }
  state["epoch_started"] = !epoch_done_ && epoch_started_;
  state["stepped"] = !epoch_done_ && stepped_;
  state["training_s"] = training_s();
  state.update(validation_.state_dict(epoch_done_));
  state["optimization"] = optimization_->state_dict();
  const nlohmann::json own = {{"rng", {{"cpu", hash::to_hex(get_rng_state())}}},
                              {"data", data_.state_dict(epoch_done_)},
                              {"metrics", metrics_.state_dict(registered_metrics(module_))}};
  state["ranks"] = nlohmann::json::array();
  for (const auto& of_rank : strategy_.all_gather_text(own.dump())) {
    state["ranks"].push_back(nlohmann::json::parse(of_rank));
  }
  state["newest_metrics"] = json::numbers(run_.metrics.newest);
  state["validation_metrics"] = json::numbers(run_.metrics.validation);
  state["prog_bar_metrics"] = json::numbers(run_.metrics.prog_bar);
  return state;
}

void FitLoop::load_state_dict(const nlohmann::json& state) {
  progress_ = state.get<Progress>();
  is_resumed_ = true;
  epoch_started_ = state.at("epoch_started");
  stepped_ = state.at("stepped");
  trained_before_s_ = state.at("training_s");
  agreement_.set_training_s(trained_before_s_);
  validation_.load_state_dict(state);
  optimization_->load_state_dict(state.at("optimization"));
  load_state_of_rank(state.at("ranks"));
  run_.metrics.newest = json::to_doubles(state.at("newest_metrics"));
  run_.metrics.validation = json::to_doubles(state.at("validation_metrics"));
  run_.metrics.prog_bar = json::to_doubles(state.at("prog_bar_metrics"));
}

}  // namespace trainer
