#pragma once
// Batches of a data set in a reproducible order, fetched ahead by threads.
//
//   DataLoader loader(dataset, {.batch_size = 32, .shuffle = true});
//   loader.start(/*epoch=*/0);
//   while (auto batch = loader.next()) { ... }

#include <cstdint>
#include <memory>
#include <optional>

#include <trainer/core/batch.h>
#include <trainer/core/reflect.h>
#include <trainer/data/dataset.h>

namespace trainer {

struct DataLoaderOptions {
  int64_t batch_size = 1;
  bool shuffle = false;
  bool drop_last = false;
  int64_t num_workers = 1;
  int64_t prefetch = 8;
  std::optional<uint64_t> seed = std::nullopt;

  static constexpr auto fields() {
    using config::field, config::at_least;
    return std::tuple{
        field<&DataLoaderOptions::batch_size>("Samples in a batch, per process.", at_least(1)),
        field<&DataLoaderOptions::shuffle>("A new order each epoch instead of the data set's own."),
        field<&DataLoaderOptions::drop_last>("Leave out a last batch that is smaller than the others."),
        field<&DataLoaderOptions::num_workers>(
            "Threads that fetch batches ahead; 0 fetches in the calling thread. The batches are the same for any number.",
            at_least(0)),
        field<&DataLoaderOptions::prefetch>("Batches held ready at most.", at_least(1)),
        field<&DataLoaderOptions::seed>("Seed of the order; unset: the run's seed.")};
  }
};

/// Movable, not copyable; empty (no data set) when default-constructed, which stands for "no such data".
class DataLoader {
 public:
  DataLoader();
  /// Throws DataError for an empty data set, ConfigError for options out of range.
  DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options);
  DataLoader(DataLoader&&) noexcept;
  DataLoader& operator=(DataLoader&&) noexcept;
  ~DataLoader();

  explicit operator bool() const { return impl_ != nullptr; }

  /// Batches in an epoch.
  int64_t size() const;
  /// Samples in batch `batch_idx` of an epoch: batch_size, or less for the last one.
  int64_t num_samples(int64_t batch_idx) const;
  const Dataset& dataset() const;
  const DataLoaderOptions& options() const;

  /// Begins `epoch` at batch `first_batch`, in O(1) whatever the position: what a checkpoint has to keep is these two
  /// numbers and the seed. Stops an epoch that is under way. `num_batches` ends the epoch early (limit_*_batches),
  /// so that nothing is fetched in vain; -1 for all.
  void start(int64_t epoch, int64_t first_batch = 0, int64_t num_batches = -1);

  /// The next batch, or nothing at the end of the epoch. Rethrows what the data set threw for that batch.
  std::optional<Batch> next();

  /// Ends the epoch and its threads early.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trainer
