#include <trainer/data/data_loader.h>

#include <algorithm>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <c10/util/Type.h>
#include <fmt/format.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/seed.h>
#include <trainer/data/prefetcher.h>
#include <trainer/data/sampler.h>
#include <trainer/data/stream_source.h>

namespace trainer {
namespace {

DataLoaderOptions checked(DataLoaderOptions options) {
  config::check(options, "DataLoader");
  options.batch_size = options.global_batch_size.value_or(options.batch_size);
  return options;
}

}  // namespace

void DataLoaderOptions::validate() const {
  if (global_batch_size && batch_size != 1) {
    throw ConfigError(fmt::format("batch_size is {} and global_batch_size is {}; give one of them.",
                                  batch_size, *global_batch_size));
  }
}

int64_t batch_size_for(int64_t global_batch_size, const Division& division) {
  const auto [rank, world_size, accumulate_grad_batches, shards] = division;
  TRAINER_CHECK(world_size > 0 && accumulate_grad_batches > 0, "no process, or no batch of a step");
  const int64_t per_process = global_batch_size / world_size;
  const int64_t batch_size = per_process / accumulate_grad_batches;
  if (batch_size * accumulate_grad_batches * world_size != global_batch_size || batch_size == 0) {
    throw ConfigError(
        fmt::format("global_batch_size is {}, which does not divide by {} processes times "
                    "accumulate_grad_batches {}.\n  Choose a multiple of both.",
                    global_batch_size, world_size, accumulate_grad_batches));
  }
  return batch_size;
}

/// The batches of a Dataset.
class DataLoader::DatasetSource : public BatchSource {
 public:
  DatasetSource(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options)
      : options_(checked(options)), dataset_(std::move(dataset)) {
    if (!dataset_) {
      throw UsageError("DataLoader: the data set is null. DataLoader() stands for no data.");
    }
    num_samples_ = dataset_->size();
    if (num_samples_ <= 0) {
      throw DataError(
          fmt::format("DataLoader: {} has no samples, its size() is {}. Give it some, or return "
                      "DataLoader() where a stage has no data.",
                      dataset_name(), num_samples_));
    }
    if (!options_.global_batch_size) {
      check_full_batch();
    }
  }

  const Dataset& dataset() const { return *dataset_; }
  const DataLoaderOptions& options() const { return options_; }

  int64_t size() const override {
    const bool has_rest = num_samples_ % global_batch_size() > 0;
    return num_samples_ / global_batch_size() + (!options_.drop_last && has_rest);
  }

  int64_t num_samples(int64_t batch_idx) const {
    const auto share = share_of(batch_idx);
    return share.is_repeated ? 0 : share.size;
  }

  void start(int64_t epoch, int64_t first_batch, int64_t num_batches) override {
    std::optional<Permutation> order;
    if (options_.shuffle) {
      const uint64_t seed = options_.seed.value_or(global_seed());
      order.emplace(num_samples_, derive_seed(seed, static_cast<uint64_t>(epoch)));
    }
    const int64_t left = size() - first_batch;
    const int64_t count = num_batches < 0 ? left : std::min(num_batches, left);
    next_batch_ = first_batch;
    prefetcher().start(
        [this, order, epoch](int64_t batch_idx) { return fetch(batch_idx, order, epoch); },
        first_batch, first_batch + count);
  }

  std::optional<Batch> next() override {
    auto batch = prefetcher().next();
    next_batch_ += batch ? 1 : 0;
    return batch;
  }
  std::optional<int64_t> global_samples() const override {
    return division_.shards ? std::optional(samples_in(next_batch_ - 1)) : std::nullopt;
  }
  bool is_repeated() const override { return share_of(next_batch_ - 1).is_repeated; }
  void stop() override { prefetcher().stop(); }

  nlohmann::json shape() const override {
    return {{"samples", num_samples_},
            {"batch_size", global_batch_size()},
            {"shuffle", options_.shuffle}};
  }

  void divide_batches(const Division& division) override {
    division_ = division;
    if (options_.global_batch_size) {
      options_.batch_size = batch_size_for(*options_.global_batch_size, division);
    }
    check_full_batch();
  }

  void keep_order() override { options_.shuffle = false; }

 private:
  std::string dataset_name() const {
    const Dataset& object = *dataset_;
    return c10::demangle(typeid(object).name());
  }

  void check_full_batch() const {
    if (options_.drop_last && num_samples_ < global_batch_size()) {
      throw DataError(fmt::format(
          "DataLoader: {} has {} samples, not one full batch of {}. Lower batch_size, or turn "
          "drop_last off.",
          dataset_name(), num_samples_, global_batch_size()));
    }
  }

  /// Many small batches ahead, so that waking a thread costs little for each; few large ones.
  int64_t default_prefetch() const {
    constexpr uint64_t kBytes = uint64_t{16} << 20;
    uint64_t sample_bytes = 1;
    const at::NoGradGuard no_grad;
    try {
      const int64_t first = 0;
      const Batch sample = dataset_->get_batch({&first, 1});
      for (const auto& tensor : sample.tensors()) {
        sample_bytes += tensor.nbytes();
      }
    } catch (const std::exception&) {
      return 2;  // the batch that has this sample reports the error when it is asked for
    }
    const uint64_t fitting = kBytes / sample_bytes / static_cast<uint64_t>(options_.batch_size);
    return static_cast<int64_t>(std::clamp<uint64_t>(fitting, 2, 64));
  }

  /// Made at the first start(): until then no sample is touched.
  Prefetcher& prefetcher() {
    if (!threads_) {
      const int64_t fitting = options_.num_workers == 0 ? 1
                              : options_.prefetch       ? *options_.prefetch
                                                        : default_prefetch();
      // More than one epoch's batches, and more threads than batches, could never be used.
      const int64_t capacity = std::max<int64_t>(1, std::min(fitting, size()));
      threads_.emplace(std::min(options_.num_workers, capacity), capacity);
    }
    return *threads_;
  }

  /// Of the processes that share the samples, together.
  int64_t global_batch_size() const { return options_.batch_size * num_sharing(); }
  int64_t num_sharing() const { return division_.shards ? division_.world_size : 1; }
  int64_t samples_in(int64_t batch_idx) const {
    return std::min(global_batch_size(), num_samples_ - batch_idx * global_batch_size());
  }

  /// This process's part of a batch, as positions of an epoch.
  Share share_of(int64_t batch_idx) const {
    auto share = trainer::share_of(samples_in(batch_idx), options_.batch_size,
                                   division_.shards ? division_.rank : 0, num_sharing());
    share.begin += batch_idx * global_batch_size();
    return share;
  }

  Batch fetch(int64_t batch_idx, const std::optional<Permutation>& order, int64_t epoch) const {
    const at::NoGradGuard no_grad;
    const auto share = share_of(batch_idx);
    int64_t position = share.begin;
    std::vector<int64_t> indices(static_cast<size_t>(share.size));
    for (int64_t& index : indices) {
      index = order ? (*order)[position] : position;
      ++position;
    }
    return dataset_->get_batch_in_epoch(indices, epoch);
  }

  DataLoaderOptions options_;
  std::shared_ptr<const Dataset> dataset_;
  int64_t num_samples_ = 0;
  Division division_;
  int64_t next_batch_ = 0;
  std::optional<Prefetcher> threads_;  // last: they use the rest
};

DataLoader::DataLoader() = default;
DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options)
    : source_(std::make_unique<DatasetSource>(std::move(dataset), options)) {}
DataLoader::DataLoader(std::shared_ptr<IterableDataset> dataset, DataLoaderOptions options)
    : source_(std::make_unique<StreamSource>(std::move(dataset), options)) {}
DataLoader::DataLoader(std::unique_ptr<BatchSource> source) : source_(std::move(source)) {
  if (!source_) {
    throw UsageError("DataLoader: the source is null. DataLoader() stands for no data.");
  }
}
DataLoader::DataLoader(DataLoader&&) noexcept = default;
DataLoader& DataLoader::operator=(DataLoader&&) noexcept = default;
DataLoader::~DataLoader() = default;

BatchSource& DataLoader::source() const {
  if (!source_) {
    throw UsageError("DataLoader: has no data set. Ask `if (loader)` first.");
  }
  return *source_;
}

const DataLoader::DatasetSource& DataLoader::dataset_source() const {
  const auto* const found = dynamic_cast<const DatasetSource*>(&source());
  if (found == nullptr) {
    throw UsageError(
        "DataLoader: dataset(), options() and num_samples() are those of a Dataset; this loader "
        "has a stream or a CombinedLoader. Ask shape().");
  }
  return *found;
}

int64_t DataLoader::size() const { return source().size(); }

int64_t DataLoader::num_samples(int64_t batch_idx) const {
  const auto& self = dataset_source();
  if (batch_idx < 0 || batch_idx >= size()) {
    throw UsageError(fmt::format("DataLoader: no batch {}; an epoch has {}, counted from 0.",
                                 batch_idx, size()));
  }
  return self.num_samples(batch_idx);
}

const Dataset& DataLoader::dataset() const { return dataset_source().dataset(); }

const DataLoaderOptions& DataLoader::options() const { return dataset_source().options(); }

nlohmann::json DataLoader::shape() const { return source().shape(); }

void DataLoader::start(int64_t epoch, int64_t first_batch, int64_t num_batches) {
  const bool is_past_end = size() != kUnknownSize && first_batch > size();
  if (epoch < 0 || first_batch < 0 || is_past_end || num_batches < -1) {
    throw UsageError(fmt::format(
        "DataLoader: start(epoch {}, first_batch {}, num_batches {}) is out of range; an epoch has "
        "{} batches, and -1 stands for all that are left.",
        epoch, first_batch, num_batches,
        size() == kUnknownSize ? std::string("any number of") : std::to_string(size())));
  }
  source_->start(epoch, first_batch, num_batches);
  started_ = true;
}

std::optional<Batch> DataLoader::next() {
  BatchSource& self = source();
  if (!started_) {
    throw UsageError("DataLoader: next() before start(). Call start(epoch) for each epoch.");
  }
  const flight::LongTask task(flight::kWaitsForData);
  return self.next();
}

int64_t DataLoader::dataloader_idx() const { return source().dataloader_idx(); }

void DataLoader::stop() {
  BatchSource& self = source();
  if (started_) {
    self.stop();
  }
}

nlohmann::json DataLoader::state_dict() const { return source().state_dict(); }

void DataLoader::load_state_dict(const nlohmann::json& state) { source().load_state_dict(state); }

std::optional<int64_t> DataLoader::global_samples() const { return source().global_samples(); }

bool DataLoader::is_repeated() const { return source().is_repeated(); }

void DataLoader::divide_batches(const Division& division) {
  BatchSource& self = source();
  if (std::exchange(started_, false)) {
    self.stop();
  }
  self.divide_batches(division);
}

void DataLoader::keep_order() { source().keep_order(); }

}  // namespace trainer
