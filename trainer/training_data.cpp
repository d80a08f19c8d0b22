#include <trainer/training_data.h>

#include <algorithm>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {

void TrainingData::open() {
  if (auto loader = run_.data.train_dataloader()) {  // one given by hand is not given anew
    loader_ = std::move(loader);
    if (run_.config.overfits()) {
      loader_.keep_order();
    }
  }
  if (!loader_) {
    throw DataError("fit: the data module has no train_dataloader(). Override it.");
  }
  count_batches();
}

void TrainingData::count_batches() {
  loader_.divide_batches(run_.strategy.world_size(),
                         run_.config.accumulate_grad_batches.at(run_.progress.current_epoch));
  num_batches_ =
      limited_batches(run_.config.limit_train_batches, loader_.size(), "limit_train_batches");
  if (num_batches_ == 0) {
    const bool is_limit = run_.config.limit_train_batches == BatchLimit(int64_t{0}) ||
                          run_.config.limit_train_batches == BatchLimit(0.0);
    throw DataError(fmt::format("fit: there is no training batch (data of {}). {}",
                                loader_.shape().dump(),
                                is_limit ? "trainer.limit_train_batches is 0: set it to 1 or more."
                                         : "Give more data or a smaller batch size."));
  }
}

bool TrainingData::begin_epoch() {
  const int64_t before = num_batches_;
  count_batches();
  return num_batches_ != before;
}

void TrainingData::start() {
  if (epoch_is_over()) {
    return;  // a resumed run has only its end left to do
  }
  if (!restored_loader_.is_null()) {
    loader_.load_state_dict(std::exchange(restored_loader_, {}));
  }
  const int64_t done = run_.progress.batch_idx;
  loader_.start(run_.progress.current_epoch, done,
                num_batches_ == kAllBatches ? -1 : num_batches_ - done);
}

bool TrainingData::fetch_window() {
  const Progress& progress = run_.progress;
  const int64_t wanted = std::min(run_.config.accumulate_grad_batches.at(progress.current_epoch),
                                  num_batches_ - progress.batch_idx);
  window_weight_ = 0;
  window_samples_ = 0;
  window_is_fresh_ = true;
  for (int64_t i = 0; i < wanted; ++i) {
    auto batch = loader_.next();
    if (!batch) {
      TRAINER_CHECK(loader_.size() == kUnknownSize, "the data loader ended before its epoch");
      num_batches_ = progress.batch_idx + static_cast<int64_t>(window_.size());
      if (num_batches_ == 0) {
        throw DataError(
            "fit: the training data ended before its first batch. Give it some samples.");
      }
      break;
    }
    if (wanted > 1) {
      window_weight_ += run_.module.loss_weight(*batch);
    }
    window_samples_ += batch->size();
    window_.push_back({std::move(*batch), loader_.dataloader_idx()});
  }
  return !window_.empty();
}

int64_t TrainingData::drop_window() {
  const auto batches = static_cast<int64_t>(window_.size());
  window_.clear();
  return batches;
}

std::pair<Batch, TrainingData::Place> TrainingData::next() {
  const bool is_first = std::exchange(window_is_fresh_, false);
  const bool is_last = window_.size() == 1;
  auto [batch, dataloader_idx] = std::move(window_.front());
  window_.pop_front();
  double weight = 1;  // where it is a window of its own, its loss needs no multiplication
  if (!is_first || !is_last) {
    weight = window_weight_ > 0 ? run_.module.loss_weight(batch) / window_weight_ : 0;
  }
  return {std::move(batch), {is_first, is_last, weight, dataloader_idx}};
}

void TrainingData::skip_rest() {
  window_.clear();
  num_batches_ = run_.progress.batch_idx;
}

nlohmann::json TrainingData::shape() const {
  auto shape = loader_.shape();
  shape["accumulate_grad_batches"] =
      run_.config.accumulate_grad_batches.at(run_.progress.current_epoch);
  shape["epoch_is_over"] = epoch_is_over();
  return shape;
}

nlohmann::json TrainingData::state_dict(bool epoch_is_done) const {
  if (!is_open()) {
    return {{"shape", nullptr}, {"loader", nullptr}};  // before the first epoch
  }
  return {{"shape", shape()}, {"loader", epoch_is_done ? nlohmann::json() : loader_.state_dict()}};
}

void TrainingData::load_state_dict(const nlohmann::json& state) {
  restored_shape_ = state.at("shape");
  if (!restored_shape_.is_null()) {
    (void)restored_shape_.at("epoch_is_over").get<bool>();  // what is damaged is told now
  }
  restored_loader_ = state.at("loader");
}

void TrainingData::check_restored() {
  const auto saved = std::exchange(restored_shape_, {});
  const Progress& progress = run_.progress;
  if (progress.batch_idx == 0 || saved.is_null()) {
    return;
  }
  if (saved.at("epoch_is_over") == true) {
    num_batches_ = progress.batch_idx;  // nothing of it is left, whatever the data is now
    restored_loader_ = {};
    return;
  }
  count_batches();  // open() may have been before the restored epoch was known
  auto present = shape();
  present["epoch_is_over"] = false;
  if (saved != present) {
    throw CheckpointError(fmt::format(
        "the checkpoint was saved within epoch {}, after batch {}, over data of {}; now it is {}. "
        "The rest of that epoch would be other samples.\n  Resume with the same data and settings, "
        "or from a checkpoint at the end of an epoch.",
        progress.current_epoch, progress.batch_idx, saved.dump(), present.dump()));
  }
}

}  // namespace trainer
