#include <trainer/fit_validation.h>

#include <utility>

#include <trainer/core/json.h>

namespace trainer {

void FitValidation::open() {
  auto loaders = run_.data.val_dataloaders();
  if (!loaders.empty() || data_.empty()) {  // loaders given by hand are not given anew
    data_ = limited(std::move(loaders), run_.division(/*accumulate_grad_batches=*/1),
                    run_.config.limit_val_batches, "limit_val_batches");
  }
  num_batches_ = trainer::num_batches(data_);
}

void FitValidation::run_sanity_check(int64_t num_batches) {
  if (num_batches_ > 0) {
    eval_loop_.run_sanity_check(data_, num_batches < 0 ? kAllBatches : num_batches);
  }
}

void FitValidation::plan(int64_t num_training_batches) {
  const auto state = schedule_ ? schedule_->state_dict() : std::exchange(restored_, {});
  schedule_.emplace(run_.config, num_training_batches);
  if (!state.is_null()) {
    schedule_->load_state_dict(state);
  }
}

bool FitValidation::is_due(double training_s, bool epoch_is_over) const {
  return num_batches_ > 0 && schedule_->is_due(run_.progress, training_s, epoch_is_over);
}

bool FitValidation::runs_in_this_epoch() const {
  return num_batches_ > 0 && schedule_ && schedule_->runs_in_epoch(run_.progress.current_epoch);
}

bool FitValidation::run(double training_s) {
  const auto before = *schedule_;
  // First, so that a checkpoint saved at its end does not ask for it again.
  schedule_->ran(run_.progress, training_s);
  const bool is_whole = eval_loop_.run(EvalKind::kValidation, data_).has_value();
  if (!is_whole) {
    schedule_ = before;
  }
  return is_whole;
}

nlohmann::json FitValidation::state_dict(bool epoch_is_done) const {
  nlohmann::json schedule;  // null before the first epoch
  if (schedule_) {
    auto copy = *schedule_;
    if (epoch_is_done) {
      copy.begin_epoch();
    }
    schedule = copy.state_dict();
  }
  return {{"validation", std::move(schedule)}, {"evaluated_batches", eval_loop_.num_seen()}};
}

void FitValidation::load_state_dict(const nlohmann::json& state) {
  restored_ = state.at("validation");
  if (!restored_.is_null()) {
    (void)json::to_int64(restored_.at("ran_at"));  // what is damaged is told now
    (void)restored_.at("ran_at_s").get<double>();
  }
  eval_loop_.set_num_seen(state.at("evaluated_batches"));
}

}  // namespace trainer
