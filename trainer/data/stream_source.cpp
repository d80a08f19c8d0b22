#include <trainer/data/stream_source.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/data/stack.h>

namespace trainer {
namespace {

constexpr int64_t kDefaultPrefetch = 8;

DataLoaderOptions checked(DataLoaderOptions options) {
  config::check(options, "DataLoader");
  if (options.shuffle) {
    throw ConfigError(
        "DataLoader: shuffle is true, but an IterableDataset has an order of its own. Turn shuffle "
        "off, and shuffle within the data set.");
  }
  options.batch_size = options.global_batch_size.value_or(options.batch_size);
  return options;
}

}  // namespace

void IterableDataset::skip(int64_t num_samples) {
  for (int64_t i = 0; i < num_samples; ++i) {
    if (!next()) {
      return;
    }
  }
}

StreamSource::StreamSource(std::shared_ptr<IterableDataset> dataset, DataLoaderOptions options)
    : dataset_(std::move(dataset)),
      options_(checked(options)),
      prefetcher_(options_.num_workers == 0 ? 0 : 1,
                  options_.num_workers == 0 ? 1 : options_.prefetch.value_or(kDefaultPrefetch)) {
  if (!dataset_) {
    throw UsageError("DataLoader: the data set is null. DataLoader() stands for no data.");
  }
}

void StreamSource::start(int64_t epoch, int64_t first_batch, int64_t num_batches) {
  prefetcher_.stop();
  epoch_ = epoch;
  next_batch_ = first_batch;
  ended_ = false;
  fetched_.clear();
  last_ = {};
  const at::NoGradGuard no_grad;
  dataset_->start(epoch);
  if (!restore(epoch, first_batch) && first_batch > 0) {
    dataset_->skip(first_batch * options_.batch_size * num_sharing());
  }
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const bool has_end = num_batches >= 0 && num_batches <= kMax - first_batch;
  prefetcher_.start([this](int64_t) { return fetch(); }, first_batch,
                    has_end ? first_batch + num_batches : kMax);
}

/// Goes to the position that load_state_dict() gave, if it is that of this start().
bool StreamSource::restore(int64_t epoch, int64_t first_batch) {
  const auto restored = std::exchange(restored_, nullptr);
  state_ = restored;
  if (restored.is_null()) {
    return false;
  }
  if (restored.value("epoch", int64_t{-1}) != epoch ||
      restored.value("batch", int64_t{-1}) != first_batch || !restored.contains("dataset")) {
    throw CheckpointError(fmt::format(
        "DataLoader: the state of the stream is {}, not that of epoch {} before batch {}.\n"
        "  The checkpoint is damaged or has the state of something else here.",
        restored.dump(), epoch, first_batch));
  }
  dataset_->load_state_dict(restored["dataset"]);
  return true;
}

/// The next batch; an empty one at the end of the stream.
Batch StreamSource::fetch() {
  if (ended_) {
    return {};
  }
  const at::NoGradGuard no_grad;
  try {
    Fetched fetched;
    Batch batch = pull(fetched);
    ended_ = batch.empty();
    fetched.position = dataset_->state_dict();
    const std::lock_guard lock(mutex_);
    fetched_.push_back(std::move(fetched));
    return batch;
  } catch (...) {
    ended_ = true;
    throw;
  }
}

/// This process's part of the samples of a batch, one process's after the other's.
Batch StreamSource::pull(Fetched& fetched) {
  const int64_t wanted = options_.batch_size * num_sharing();
  std::vector<Batch> samples;
  while (static_cast<int64_t>(samples.size()) < wanted) {
    auto sample = dataset_->next();
    if (!sample) {
      break;
    }
    samples.push_back(std::move(*sample));
    if (!same_form(samples.back(), samples.front())) {
      throw UsageError(fmt::format(
          "IterableDataset: sample {} of a batch does not stack with the first one: {} against "
          "{}.\n  Make all samples alike in next().",
          samples.size() - 1, form(samples.back()), form(samples.front())));
    }
  }
  const auto size = static_cast<int64_t>(samples.size());
  if (size == 0 || (options_.drop_last && size < wanted)) {
    return {};
  }
  fetched.global_samples = size;
  const auto [begin, own, is_repeated] =
      share_of(size, options_.batch_size, is_whole_ ? division_.rank : 0, num_sharing());
  fetched.is_repeated = is_repeated;
  if (own < size) {
    samples.erase(samples.begin() + begin + own, samples.end());
    samples.erase(samples.begin(), samples.begin() + begin);
  }
  return stack_samples(samples);
}

std::optional<Batch> StreamSource::next() {
  auto batch = prefetcher_.next();
  if (!batch || batch->empty()) {
    prefetcher_.stop();
    return std::nullopt;
  }
  ++next_batch_;
  const std::lock_guard lock(mutex_);
  last_ = std::move(fetched_.front());
  fetched_.pop_front();
  state_ = last_.position.is_null() ? nlohmann::json()
                                    : nlohmann::json{{"epoch", epoch_},
                                                     {"batch", next_batch_},
                                                     {"dataset", std::move(last_.position)}};
  return batch;
}

nlohmann::json StreamSource::shape() const {
  nlohmann::json shape = {{"batch_size", options_.batch_size * num_sharing()}};
  if (!is_whole_) {
    shape["sharded_by_itself"] = true;
  }
  return shape;
}

std::optional<int64_t> StreamSource::global_samples() const {
  return is_whole_ && division_.shards ? std::optional(last_.global_samples) : std::nullopt;
}

void StreamSource::divide_batches(const Division& division) {
  division_ = division;
  if (!division.shards) {
    division_.world_size = 1;
    division_.rank = 0;
  }
  is_whole_ = division_.world_size == 1 || !dataset_->shard(division_.rank, division_.world_size);
  if (options_.global_batch_size) {
    options_.batch_size = batch_size_for(*options_.global_batch_size, division);
  }
}

}  // namespace trainer
