#include <trainer/fit_loop.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/hash.h>
#include <trainer/core/json.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/signals.h>

namespace trainer {

using C = Callback;

namespace {

nlohmann::json to_json(const std::map<std::string, double>& metrics) {
  auto all = nlohmann::json::object();
  for (const auto& [name, value] : metrics) {
    all[name] = json::number(value);
  }
  return all;
}

std::map<std::string, double> from_json(const nlohmann::json& saved) {
  std::map<std::string, double> metrics;
  for (const auto& [name, value] : saved.items()) {
    metrics[name] = json::to_double(value);
  }
  return metrics;
}

}  // namespace

FitLoop::FitLoop(Run& run, const bool& should_stop)
    : run_(run),
      module_(run.module),
      strategy_(run.strategy),
      callbacks_(run.callbacks),
      progress_(run.progress),
      should_stop_(should_stop),
      eval_loop_(run),
      limits_(run.config) {
  (run.config.gradient_clip_algorithm == "norm" ? clip_norm_ : clip_value_) =
      run.config.gradient_clip_val;
}

void FitLoop::setup() {
  optimization_ = std::make_unique<Optimization>(run_, estimated_schedule_steps());
}

int64_t FitLoop::estimated_schedule_steps() {
  const auto& choice = run_.optimizer_choice;
  if (!choice || !choice->lr_scheduler) {
    return -1;
  }
  const auto& config = run_.config;
  const int64_t max_epochs = config.max_epochs.value_or(-1);
  open_training_data();
  int64_t steps = config.max_steps;
  if (max_epochs >= 0 && num_batches_ != kAllBatches) {
    int64_t by_epochs = 0;
    for (int64_t epoch = 0; epoch < max_epochs; ++epoch) {
      const int64_t window = config.accumulate_grad_batches.at(epoch);
      by_epochs += (num_batches_ + window - 1) / window;
    }
    steps = steps < 0 ? by_epochs : std::min(steps, by_epochs);
  }
  if (choice->interval == Interval::kEpoch) {
    steps = max_epochs;
  }
  return steps < 0 ? -1 : steps / choice->frequency;
}

void FitLoop::run() {
  const ModuleAttachment attachment(module_, metrics_, progress_);
  const OptimizationAttachment optimizers(module_, *optimization_);
  run_sanity_check();
  if (!train_loader_) {
    open_training_data();
  }
  check_restored_data();
  validation_.emplace(run_.config, num_batches_);
  if (!restored_validation_.is_null()) {
    validation_->load_state_dict(std::exchange(restored_validation_, {}));
  }
  began_ = std::chrono::steady_clock::now();
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
    end_epoch();  // its rows were cut, as they came after the checkpoint
  }
  while (!is_done() && !stop_is_requested()) {
    run_epoch();
  }
  metrics_.enter(MetricCollector::Scope::kForbidden, "on_train_end");
  callbacks_.call<&C::on_train_end>();
  module_.on_train_end();
}

void FitLoop::open_training_data() {
  train_loader_ = run_.data.train_dataloader();
  if (!train_loader_) {
    throw DataError("fit: the data module has no train_dataloader(). Override it.");
  }
  train_loader_.divide_batches(strategy_.world_size(),
                               run_.config.accumulate_grad_batches.at(progress_.current_epoch));
  if (run_.config.overfits()) {
    train_loader_.keep_order();
  }
  num_batches_ =
      limited_batches(run_.config.limit_train_batches, train_loader_.size(), "limit_train_batches");
  if (num_batches_ == 0) {
    throw DataError(
        fmt::format("fit: there is no training batch ({}). Give more data or a smaller batch size.",
                    train_loader_.shape().dump()));
  }
}

void FitLoop::run_sanity_check() {
  const int64_t wanted = run_.config.num_sanity_val_steps;
  sanity_checking_ = wanted != 0 && progress_.global_step == 0;
  if (sanity_checking_) {
    callbacks_.call<&C::on_sanity_check_start>();
  }
  open_validation_data();
  if (sanity_checking_) {
    if (num_val_batches_ > 0) {
      eval_loop_.run_sanity_check(val_data_,
                                  wanted < 0 ? std::numeric_limits<int64_t>::max() : wanted);
    }
    callbacks_.call<&C::on_sanity_check_end>();
    sanity_checking_ = false;
  }
}

void FitLoop::open_validation_data() {
  val_data_ =
      limited(run_.data.val_dataloaders(), run_.config.limit_val_batches, "limit_val_batches");
  num_val_batches_ = num_batches(val_data_);
}

void FitLoop::reload_data_if_due() {
  const int64_t every = run_.config.reload_dataloaders_every_n_epochs;
  if (every > 0 && progress_.current_epoch > 0 && progress_.current_epoch % every == 0) {
    open_training_data();
    open_validation_data();
    validation_.emplace(run_.config, num_batches_);
  }
}

void FitLoop::run_epoch() {
  if (!epoch_started_) {
    reload_data_if_due();
    metrics_.enter(MetricCollector::Scope::kEpoch, "on_train_epoch_start");
    callbacks_.call<&C::on_train_epoch_start>();
    module_.on_train_epoch_start();
    epoch_started_ = true;
  }
  if (!restored_loader_.is_null()) {
    train_loader_.load_state_dict(std::exchange(restored_loader_, {}));
  }
  train_loader_.start(
      progress_.current_epoch, progress_.batch_idx,
      num_batches_ == kAllBatches ? -1 : std::max<int64_t>(0, num_batches_ - progress_.batch_idx));
  for (;;) {
    if (at_step_edge()) {
      const bool epoch_is_over = progress_.batch_idx >= num_batches_;
      if (num_val_batches_ > 0 && validation_->is_due(progress_, training_s(), epoch_is_over)) {
        validate();
      }
      if (std::exchange(stepped_, false)) {
        step_metric_schedulers(Interval::kStep, progress_.global_step);
      }
      if (epoch_is_over || is_done() || stop_is_requested()) {
        break;
      }
      fill_window();
      if (window_.empty()) {
        continue;  // the data ended, which nobody could know before
      }
    }
    const Window window = take_window();
    Batch batch = std::move(window_.front());
    window_.pop_front();
    if (!train_batch(std::move(batch), window, progress_.batch_idx)) {
      window_.clear();
      progress_.batch_idx = num_batches_;
      break;
    }
  }
  train_loader_.stop();
  if (progress_.batch_idx < num_batches_) {
    callbacks_.call<&C::on_train_stop>();
    if (SignalScope::received() != 0) {
      return;  // the epoch is not over: a resumed run finishes it
    }
  }
  end_epoch();
}

bool FitLoop::train_batch(Batch cpu_batch, const Window& window, int64_t batch_idx) {
  in_step_ = true;
  const Batch batch = run_.transfer(std::move(cpu_batch));
  metrics_.enter(MetricCollector::Scope::kTrainBatch, "training_step", batch.size());
  callbacks_.call<&C::on_train_batch_start>(batch, batch_idx);
  if (!module_.on_train_batch_start(batch, batch_idx)) {
    in_step_ = false;
    return false;
  }
  const auto loss = module_.automatic_optimization() ? optimize(batch, window, batch_idx)
                                                     : optimize_by_hand(batch, batch_idx);
  ++progress_.batch_idx;
  ++progress_.batches;
  progress_.samples += batch.size();
  progress_.stepped_batches += window.is_last ? 1 : 0;
  if (progress_.batch_idx == num_batches_ && module_.automatic_optimization()) {
    optimization_->step_lr_schedulers(Interval::kEpoch, progress_.current_epoch + 1);
  }
  in_step_ = false;
  stepped_ = window.is_last;

  callbacks_.call_acting<&C::on_train_batch_end>(loss, batch, batch_idx);
  module_.on_train_batch_end(loss, batch, batch_idx);
  if (window.is_last) {
    log_step_metrics();
  }
  callbacks_.call_monitoring<&C::on_train_batch_end>(loss, batch, batch_idx);
  return true;
}

/// The training step itself. Forward and backward pass are the closure that the optimizer
/// evaluates, so that optimizers which evaluate more than once, and overridden optimizer_step()s,
/// work.
torch::Tensor FitLoop::optimize(const Batch& batch, const Window& window, int64_t batch_idx) {
  auto& optimizer = optimization_->optimizer(0);
  strategy_.require_gradient_sync(window.is_last);

  auto evaluate = [&] {
    torch::Tensor loss;
    {
      const auto autocast = run_.precision.autocast(strategy_.device());
      loss = module_.training_step(batch, batch_idx);
    }
    check_loss(loss, batch, batch_idx);
    if (window.is_first) {
      callbacks_.call<&C::on_before_zero_grad>(optimizer);
      module_.on_before_zero_grad(optimizer);
      module_.optimizer_zero_grad(optimizer, strategy_);
    }
    optimization_->backward(window.weight == 1.0 ? loss : loss * window.weight);
    return loss.variable_data();  // detached, without a trip through the dispatcher
  };
  auto evaluate_for_step = [&] {
    auto loss = evaluate();
    strategy_.finish_gradient_sync();
    callbacks_.call<&C::on_before_optimizer_step>(optimizer);
    module_.on_before_optimizer_step(optimizer);
    module_.configure_gradient_clipping(optimizer, strategy_, clip_norm_, clip_value_);
    return loss;
  };

  if (!window.is_last) {
    return evaluate();
  }
  auto loss = module_.optimizer_step(optimizer, strategy_, std::ref(evaluate_for_step));
  ++progress_.global_step;
  optimization_->step_lr_schedulers(Interval::kStep, progress_.global_step);
  return loss;
}

torch::Tensor FitLoop::optimize_by_hand(const Batch& batch, int64_t batch_idx) {
  strategy_.require_gradient_sync(true);
  const auto autocast = run_.precision.autocast(strategy_.device());
  const auto loss = module_.training_step(batch, batch_idx);
  return loss.defined() ? loss.variable_data() : loss;
}

void FitLoop::end_epoch() {
  metrics_.enter(MetricCollector::Scope::kEpoch, "on_train_epoch_end");
  callbacks_.call_acting<&C::on_train_epoch_end>();
  module_.on_train_epoch_end();
  publish_step_values();  // where a name has an epoch value too, that one follows and wins
  run_.publish_epoch(metrics_);
  const bool is_whole = progress_.batch_idx >= num_batches_;
  if (is_whole) {
    step_metric_schedulers(Interval::kEpoch, progress_.current_epoch + 1);
  }
  metrics_.reset_epoch();
  epoch_done_ = is_whole;
  callbacks_.call_monitoring<&C::on_train_epoch_end>();
  epoch_done_ = false;
  if (is_whole) {
    ++progress_.current_epoch;
    progress_.batch_idx = 0;
    validation_->begin_epoch();
    epoch_started_ = false;
    if (train_loader_.size() == kUnknownSize) {
      num_batches_ =
          limited_batches(run_.config.limit_train_batches, kUnknownSize, "limit_train_batches");
    }
  }
}

void FitLoop::validate() {
  // First, so that a checkpoint saved at its end does not ask for it again.
  validation_->ran(progress_, training_s());
  publish_step_values();  // what validation logs is newer
  module_.on_validation_model_zero_grad();
  optimization_->show_evaluation_parameters();
  eval_loop_.run(EvalKind::kValidation, val_data_);
  optimization_->show_training_parameters();
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

nlohmann::json FitLoop::data_shape() const {
  if (!train_loader_) {
    return nullptr;  // before the first epoch
  }
  auto shape = train_loader_.shape();
  shape["accumulate_grad_batches"] =
      run_.config.accumulate_grad_batches.at(progress_.current_epoch);
  return shape;
}

nlohmann::json FitLoop::position_in_data() const {
  auto position = data_shape();
  if (!position.is_null()) {
    position["epoch_is_over"] = progress_.batch_idx >= num_batches_;
  }
  return position;
}

void FitLoop::check_restored_data() {
  const auto saved = std::exchange(restored_data_, {});
  if (progress_.batch_idx == 0 || saved.is_null()) {
    return;
  }
  if (saved.at("epoch_is_over") == true) {
    progress_.batch_idx = num_batches_;  // nothing of it is left, whatever the data is now
    return;
  }
  auto present = data_shape();
  present["epoch_is_over"] = false;
  if (saved != present) {
    throw CheckpointError(fmt::format(
        "the checkpoint was saved within epoch {}, after batch {}, over data of {}; now it is {}. "
        "The rest of that epoch would be other samples.\n  Resume with the same data and settings, "
        "or from a checkpoint at the end of an epoch.",
        progress_.current_epoch, progress_.batch_idx, saved.dump(), present.dump()));
  }
}

void FitLoop::step_metric_schedulers(Interval interval, int64_t intervals_done) {
  optimization_->step_metric_schedulers(
      interval, intervals_done, [&](const std::string& name) -> std::optional<double> {
        publish_step_values();
        const auto found = run_.metrics.newest.find(name);
        return found == run_.metrics.newest.end() ? std::nullopt : std::optional(found->second);
      });
}

void FitLoop::fill_window() {
  const int64_t left = num_batches_ - progress_.batch_idx;
  const int64_t wanted =
      std::min(run_.config.accumulate_grad_batches.at(progress_.current_epoch), left);
  window_weight_ = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    auto batch = train_loader_.next();
    if (!batch) {
      end_of_data();
      break;
    }
    if (wanted > 1) {
      window_weight_ += module_.loss_weight(*batch);
    }
    window_.push_back(std::move(*batch));
  }
  window_is_fresh_ = true;
}

/// The loader of unknown size has no more batches: now the number of the epoch's is known.
void FitLoop::end_of_data() {
  TRAINER_CHECK(train_loader_.size() == kUnknownSize, "the data loader ended before its epoch");
  num_batches_ = progress_.batch_idx + static_cast<int64_t>(window_.size());
  if (num_batches_ == 0) {
    throw DataError("fit: the training data ended before its first batch. Give it some samples.");
  }
  if (window_.empty() && module_.automatic_optimization()) {
    optimization_->step_lr_schedulers(Interval::kEpoch, progress_.current_epoch + 1);
  }
}

FitLoop::Window FitLoop::take_window() {
  const bool is_first = std::exchange(window_is_fresh_, false);
  const bool is_last = window_.size() == 1;
  const bool is_alone = is_first && is_last;
  return {is_first, is_last,
          is_alone ? 1.0 : module_.loss_weight(window_.front()) / window_weight_};
}

void FitLoop::check_loss(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const {
  if (!loss.defined() || loss.numel() != 1) {
    throw UsageError(fmt::format(
        "{}::training_step() returned {}, not a loss of one element. Return loss.mean(), say.",
        class_name(module_),
        loss.defined() ? fmt::format("a tensor of shape {}", c10::str(loss.sizes()))
                       : std::string("an undefined tensor")));
  }
  if (!loss.requires_grad()) {
    throw UsageError(fmt::format(
        "{}::training_step() returned a loss that does not depend on any parameter. Compute "
        "it from the module's layers, without detach() or NoGradGuard.",
        class_name(module_)));
  }
  // Reading a value on the processor is free; on another device it would make the step wait.
  if (run_.config.check_finite_loss && loss.is_cpu()) {
    check_finite(loss, batch, batch_idx);
  }
}

void FitLoop::check_finite(const torch::Tensor& loss, const Batch& batch, int64_t batch_idx) const {
  const double value =
      loss.scalar_type() == at::kFloat ? *loss.const_data_ptr<float>() : loss.item().toDouble();
  if (std::isfinite(value)) {
    return;
  }
  std::string inputs;
  for (size_t i = 0; i < batch.num_tensors(); ++i) {
    if (batch[i].is_floating_point() && !batch[i].isfinite().all().item<bool>()) {
      const auto flat =
          batch[i].reshape({batch[i].size(0), -1}).isfinite().all(1).logical_not().nonzero();
      inputs += fmt::format(
          " Tensor {} of the batch has NaN or infinite values in {} of {} samples, the first is "
          "sample "
          "{}: clean the data.",
          i, flat.size(0), batch.size(), flat[0][0].item<int64_t>());
    }
  }
  throw NonFiniteError(fmt::format(
      "the loss is {} at epoch {}, batch {}, after {} optimizer steps.{}\n  What was "
      "saved before is untouched. Clip gradients (trainer.gradient_clip_val; a resumed run takes "
      "it), "
      "or begin anew with a lower learning rate, or set trainer.check_finite_loss=false to go on "
      "regardless.",
      std::isnan(value) ? "NaN" : "infinite", progress_.current_epoch, batch_idx,
      progress_.global_step, inputs.empty() ? " The batch itself is finite." : inputs));
}

void FitLoop::log_step_metrics() {
  const int64_t interval = run_.config.log_every_n_steps;
  if (interval > 0 && progress_.stepped_batches % interval == 0) {
    run_.log_metrics(metrics_.step_metrics());
  }
}

bool FitLoop::validates_in_this_epoch() const {
  return num_val_batches_ > 0 && validation_ && validation_->runs_in_epoch(progress_.current_epoch);
}

/// Reads the clock only where a setting asks for it.
double FitLoop::training_s() const {
  if (!limits_.has_time() && !(validation_ && validation_->has_time())) {
    return 0;
  }
  const std::chrono::duration<double> now = std::chrono::steady_clock::now() - began_;
  return trained_before_s_ + now.count();
}

bool FitLoop::is_done() const { return limits_.is_reached(progress_, training_s()); }

bool FitLoop::stop_is_requested() const {
  return SignalScope::received() != 0 || (should_stop_ && limits_.may_stop(progress_));
}

nlohmann::json FitLoop::validation_state() const {
  if (!validation_) {
    return nullptr;  // before the first epoch
  }
  auto schedule = *validation_;
  if (epoch_done_) {
    schedule.begin_epoch();
  }
  return schedule.state_dict();
}

nlohmann::json FitLoop::state_dict() {
  nlohmann::json state = {
      {"current_epoch", epoch_done_ ? progress_.current_epoch + 1 : progress_.current_epoch},
      {"global_step", progress_.global_step},
      {"batch_idx", epoch_done_ ? 0 : progress_.batch_idx},
      {"epoch_started", !epoch_done_ && epoch_started_},
      {"stepped", !epoch_done_ && stepped_},
      {"batches", progress_.batches},
      {"samples", progress_.samples},
      {"stepped_batches", progress_.stepped_batches},
      {"training_s", training_s()},
      {"validation", validation_state()},
      {"rng", {{"cpu", hash::to_hex(get_rng_state())}}},
      {"metrics", metrics_.state_dict()},
      {"data", position_in_data()},
      {"loader", train_loader_ && !epoch_done_ ? train_loader_.state_dict() : nlohmann::json()},
      {"newest_metrics", to_json(run_.metrics.newest)},
      {"validation_metrics", to_json(run_.metrics.validation)},
      {"prog_bar_metrics", to_json(run_.metrics.prog_bar)},
  };
  state["lr_schedulers"] = optimization_->state_dict();
  return state;
}

void FitLoop::load_state_dict(const nlohmann::json& state) {
  progress_ = {state.at("current_epoch"), state.at("global_step"), state.at("batch_idx"),
               state.at("batches"),       state.at("samples"),     state.at("stepped_batches")};
  trained_before_s_ = state.at("training_s");
  epoch_started_ = state.at("epoch_started");
  stepped_ = state.at("stepped");
  restored_validation_ = state.at("validation");
  if (!restored_validation_.is_null()) {
    (void)restored_validation_.at("ran_at").get<int64_t>();
    (void)restored_validation_.at("ran_at_s").get<double>();
  }
  restored_rng_ = hash::from_hex(state.at("rng").at("cpu").get<std::string>());
  metrics_.load_state_dict(state.at("metrics"));
  restored_data_ = state.at("data");
  if (!restored_data_.is_null()) {
    (void)restored_data_.at("epoch_is_over").get<bool>();  // what is damaged is told now
  }
  restored_loader_ = state.at("loader");
  run_.metrics.newest = from_json(state.at("newest_metrics"));
  run_.metrics.validation = from_json(state.at("validation_metrics"));
  run_.metrics.prog_bar = from_json(state.at("prog_bar_metrics"));
  optimization_->load_state_dict(state.at("lr_schedulers"));
}

}  // namespace trainer
