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
#include <trainer/core/seed.h>
#include <trainer/data/prefetcher.h>
#include <trainer/data/sampler.h>

namespace trainer {
namespace {

DataLoaderOptions checked(DataLoaderOptions options) {
  config::check(options, "DataLoader");
  return options;
}

std::shared_ptr<const Dataset> checked(std::shared_ptr<const Dataset> dataset,
                                       const DataLoaderOptions& options) {
  if (!dataset) {
    throw UsageError("DataLoader: the data set is null. DataLoader() stands for no data.");
  }
  const Dataset& object = *dataset;
  const int64_t size = object.size();
  const std::string name = c10::demangle(typeid(object).name());
  if (size <= 0) {
    throw DataError(fmt::format("DataLoader: {} has no samples.", name));
  }
  if (options.drop_last && size < options.batch_size) {
    throw DataError(fmt::format(
        "DataLoader: {} has {} samples, not one full batch of {}. Lower batch_size, or turn "
        "drop_last off.",
        name, size, options.batch_size));
  }
  return dataset;
}

}  // namespace

struct DataLoader::Impl {
  Impl(std::shared_ptr<const Dataset> dataset_in, DataLoaderOptions options_in)
      : options(checked(options_in)),
        dataset(checked(std::move(dataset_in), options)),
        size(dataset->size()),
        num_batches(size / options.batch_size +
                    (!options.drop_last && size % options.batch_size > 0)) {}

  /// Many small batches ahead, so that waking a thread costs little for each; few large ones.
  int64_t default_prefetch() const {
    constexpr uint64_t kBytes = uint64_t{16} << 20;
    uint64_t sample_bytes = 1;
    const at::NoGradGuard no_grad;
    try {
      const int64_t first = 0;
      const Batch sample = dataset->get_batch({&first, 1});
      for (const auto& tensor : sample.tensors()) {
        sample_bytes += tensor.nbytes();
      }
    } catch (const std::exception&) {
      return 2;  // the batch that has this sample reports the error when it is asked for
    }
    const uint64_t fitting = kBytes / sample_bytes / static_cast<uint64_t>(options.batch_size);
    return static_cast<int64_t>(std::clamp<uint64_t>(fitting, 2, 64));
  }

  /// Made at the first start(): until then no sample is touched.
  Prefetcher& prefetcher() {
    if (!threads) {
      const int64_t fitting = options.num_workers == 0 ? 1
                              : options.prefetch       ? *options.prefetch
                                                       : default_prefetch();
      // More than one epoch's batches, and more threads than batches, could never be used.
      const int64_t capacity = std::min(fitting, num_batches);
      threads.emplace(std::min(options.num_workers, capacity), capacity);
    }
    return *threads;
  }

  int64_t num_samples(int64_t batch_idx) const {
    return std::min(options.batch_size, size - batch_idx * options.batch_size);
  }

  Batch fetch(int64_t batch_idx, const std::optional<Permutation>& order) const {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> indices(static_cast<size_t>(num_samples(batch_idx)));
    int64_t position = batch_idx * options.batch_size;
    for (int64_t& index : indices) {
      index = order ? (*order)[position] : position;
      ++position;
    }
    return dataset->get_batch(indices);
  }

  const DataLoaderOptions options;
  const std::shared_ptr<const Dataset> dataset;
  const int64_t size;
  const int64_t num_batches;
  bool started = false;
  std::optional<Prefetcher> threads;  // last: they use the rest
};

DataLoader::DataLoader() = default;
DataLoader::DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options)
    : impl_(std::make_unique<Impl>(std::move(dataset), options)) {}
DataLoader::DataLoader(DataLoader&&) noexcept = default;
DataLoader& DataLoader::operator=(DataLoader&&) noexcept = default;
DataLoader::~DataLoader() = default;

DataLoader::Impl& DataLoader::impl() const {
  if (!impl_) {
    throw UsageError("DataLoader: has no data set. Ask `if (loader)` first.");
  }
  return *impl_;
}

int64_t DataLoader::size() const { return impl().num_batches; }

int64_t DataLoader::num_samples(int64_t batch_idx) const {
  if (batch_idx < 0 || batch_idx >= size()) {
    throw UsageError(fmt::format("DataLoader: no batch {}; an epoch has {}, counted from 0.",
                                 batch_idx, size()));
  }
  return impl().num_samples(batch_idx);
}

const Dataset& DataLoader::dataset() const { return *impl().dataset; }

const DataLoaderOptions& DataLoader::options() const { return impl().options; }

void DataLoader::start(int64_t epoch, int64_t first_batch, int64_t num_batches) {
  Impl& self = impl();
  if (epoch < 0 || first_batch < 0 || first_batch > size() || num_batches < -1) {
    throw UsageError(fmt::format(
        "DataLoader: start(epoch {}, first_batch {}, num_batches {}) is out of range; an epoch has "
        "{} batches, and -1 stands for all that are left.",
        epoch, first_batch, num_batches, size()));
  }
  std::optional<Permutation> order;
  if (self.options.shuffle) {
    const uint64_t seed = self.options.seed.value_or(global_seed());
    order.emplace(self.size, derive_seed(seed, static_cast<uint64_t>(epoch)));
  }
  const int64_t left = size() - first_batch;
  const int64_t count = num_batches < 0 ? left : std::min(num_batches, left);
  self.prefetcher().start(
      [&self, order](int64_t batch_idx) { return self.fetch(batch_idx, order); }, first_batch,
      first_batch + count);
  self.started = true;
}

std::optional<Batch> DataLoader::next() {
  if (!impl().started) {
    throw UsageError("DataLoader: next() before start(). Call start(epoch) for each epoch.");
  }
  return impl_->prefetcher().next();
}

void DataLoader::stop() {
  if (impl().started) {
    impl().prefetcher().stop();
  }
}

}  // namespace trainer
