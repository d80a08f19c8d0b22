#include <trainer/training_data.h>

#include <algorithm>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>

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
  loader_.divide_batches(
      run_.division(run_.config.accumulate_grad_batches.at(run_.progress.current_epoch)));
  int64_t size = loader_.size();
  if (!run_.config.use_distributed_sampler && run_.strategy.world_size() > 1) {
    // Each rank has data of its own: they go on until the last one has none.
    const auto own = torch::tensor({static_cast<double>(size)}, torch::kFloat64);
    const auto sizes = run_.strategy.all_gather(own.to(run_.strategy.device()));
    const bool any_unknown = sizes.min().item<double>() < 0;
    size = any_unknown ? kUnknownSize : static_cast<int64_t>(sizes.max().item<double>());
  }
  num_batches_ = limited_batches(run_.config.limit_train_batches, size, "limit_train_batches");
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
  // A rank whose data is over before that of others begins at its end.
  const int64_t begin = loader_.size() == kUnknownSize ? done : std::min(done, loader_.size());
  if (begin == loader_.size() && run_.strategy.world_size() > 1) {
    // Nothing is left for this rank, but others go on: it will repeat a batch beside them.
    loader_.start(run_.progress.current_epoch, 0, 1);
    repeated_ = loader_.next().value_or(Batch());
  }
  loader_.start(run_.progress.current_epoch, begin,
                num_batches_ == kAllBatches ? -1 : num_batches_ - done);
}

bool TrainingData::fetch_window() {
  const Progress& progress = run_.progress;
  const int64_t wanted = std::min(run_.config.accumulate_grad_batches.at(progress.current_epoch),
                                  num_batches_ - progress.batch_idx);
  window_weight_ = 0;
  window_samples_ = 0;
  window_is_fresh_ = true;
  fetch_own(wanted);
  if (run_.strategy.world_size() > 1) {
    sum_over_ranks(wanted);
  }
  const auto fetched = static_cast<int64_t>(window_.size());
  if (fetched < wanted) {
    num_batches_ = progress.batch_idx + fetched;
    if (num_batches_ == 0) {
      throw DataError("fit: the training data ended before its first batch. Give it some samples.");
    }
  }
  return fetched > 0;
}

void TrainingData::fetch_own(int64_t wanted) {
  const bool is_one_rank = run_.strategy.world_size() == 1;
  is_known_alone_ = true;
  ranks_are_even_ = true;
  for (int64_t i = 0; i < wanted; ++i) {
    auto batch = loader_.next();
    if (!batch) {
      TRAINER_CHECK(loader_.size() == kUnknownSize || !is_one_rank,
                    "the data loader ended before its epoch");
      break;
    }
    Fetched fetched{.batch = std::move(*batch), .dataloader_idx = loader_.dataloader_idx()};
    fetched.samples = fetched.batch.size();
    if (wanted > 1 || !is_one_rank) {
      fetched.weight = run_.module.loss_weight(fetched.batch);
      window_weight_ += fetched.weight;
    }
    if (!is_one_rank) {
      fetched.counts = !loader_.is_repeated();
      const auto global = loader_.global_samples();
      is_known_alone_ &= global && run_.module.weighs_by_samples();
      if (!fetched.counts) {
        fetched.weight = 0;
      }
      ranks_are_even_ &= global == fetched.samples * run_.strategy.world_size() && fetched.counts;
      fetched.samples = global.value_or(fetched.samples);
    }
    window_samples_ += fetched.samples;
    window_.push_back(std::move(fetched));
  }
}

/// The window of all ranks: as long as that of the rank that has most, each batch weighted by what
/// all of them hold.
void TrainingData::sum_over_ranks(int64_t wanted) {
  const bool ended_early = static_cast<int64_t>(window_.size()) < wanted;
  if (is_known_alone_ && !ended_early && !window_.empty()) {
    window_weight_ = static_cast<double>(window_samples_);
    return;
  }
  ranks_are_even_ = false;
  double weight = 0;
  int64_t samples = 0;
  for (const auto& fetched : window_) {
    weight += fetched.weight;
    samples += fetched.counts ? fetched.batch.size() : 0;
  }
  const auto own =
      torch::tensor({static_cast<double>(window_.size()), weight, static_cast<double>(samples)},
                    torch::kFloat64)
          .to(run_.strategy.device());
  const auto rows = run_.strategy.all_gather(own).to(torch::kCPU);
  const auto longest = static_cast<size_t>(rows.select(1, 0).max().item<double>());
  window_weight_ = rows.select(1, 1).sum().item<double>();
  window_samples_ = static_cast<int64_t>(rows.select(1, 2).sum().item<double>());
  if (!window_.empty()) {
    repeated_ = window_.back().batch;
  }
  while (window_.size() < longest) {
    if (repeated_.empty()) {
      throw DataError(fmt::format(
          "fit: rank {} has no training batch at all, others have some. Give every rank some data.",
          run_.strategy.rank()));
    }
    window_.push_back({.batch = repeated_, .dataloader_idx = 0, .weight = 0, .counts = false});
  }
  for (auto& fetched : window_) {
    fetched.samples = 0;  // of the window together
  }
  if (!window_.empty()) {
    window_.front().samples = window_samples_;
  }
}

int64_t TrainingData::drop_window() {
  const auto batches = static_cast<int64_t>(window_.size());
  window_.clear();
  return batches;
}

std::pair<Batch, TrainingData::Place> TrainingData::next() {
  Place place{.is_first = std::exchange(window_is_fresh_, false),
              .is_last = window_.size() == 1,
              .weight = 1,
              .dataloader_idx = window_.front().dataloader_idx,
              .samples = window_.front().samples,
              .counts = window_.front().counts};
  // Where it is a window of its own, the same on every rank, its loss needs no multiplication.
  if (!place.is_first || !place.is_last || !ranks_are_even_) {
    const auto ranks = static_cast<double>(run_.strategy.world_size());
    place.weight = window_weight_ > 0 ? window_.front().weight * ranks / window_weight_ : 0;
  }
  Batch batch = std::move(window_.front().batch);
  window_.pop_front();
  return {std::move(batch), place};
}

void TrainingData::skip_rest() {
  window_.clear();
  num_batches_ = run_.progress.batch_idx;
}

nlohmann::json TrainingData::shape() const {
  auto shape = loader_.shape();
  shape["world_size"] = run_.strategy.world_size();
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

/// On another number of ranks: at the same sample, where a batch of all of them begins there.
bool TrainingData::go_on_elsewhere(const nlohmann::json& saved, const nlohmann::json& present) {
  if (saved.contains("sharded_by_itself") || !run_.config.use_distributed_sampler) {
    return false;  // what each rank had is not a part of an order that all share
  }
  auto expected = saved;
  for (const char* key : {"world_size", "batch_size", "accumulate_grad_batches"}) {
    if (saved.contains(key) != present.contains(key)) {
      return false;
    }
    if (present.contains(key)) {
      expected[key] = present[key];
    }
  }
  if (saved.at("world_size") == present.at("world_size") || expected != present) {
    return false;
  }
  if (present.contains("batch_size")) {
    const int64_t position = run_.progress.batch_idx * json::to_int64(saved.at("batch_size"));
    const int64_t batch_size = present.at("batch_size");
    if (position % batch_size != 0) {
      return false;
    }
    run_.progress.batch_idx = position / batch_size;
  }
  return true;
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
  if (saved != present && !go_on_elsewhere(saved, present)) {
    throw CheckpointError(fmt::format(
        "the checkpoint was saved within epoch {}, after batch {}, over data of {}; now it is {}. "
        "The rest of that epoch would be other samples.\n  Resume with the same data and settings, "
        "or from a checkpoint at the end of an epoch.",
        progress.current_epoch, progress.batch_idx, saved.dump(), present.dump()));
  }
}

}  // namespace trainer
