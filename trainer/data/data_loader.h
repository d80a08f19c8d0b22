#pragma once
// Batches of a data set in a reproducible order, fetched ahead by threads. Use it for every pass
// over data: it is what the Trainer and a DataModule are given.
//
//   DataLoader loader(dataset, {.batch_size = 32, .shuffle = true});
//   loader.start(/*epoch=*/0);
//   while (auto batch = loader.next()) { ... }

#include <cstdint>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include <trainer/core/batch.h>
#include <trainer/core/reflect.h>
#include <trainer/data/batch_source.h>
#include <trainer/data/dataset.h>
#include <trainer/data/iterable_dataset.h>

namespace trainer {

struct DataLoaderOptions {
  int64_t batch_size = 1;
  std::optional<int64_t> global_batch_size = std::nullopt;
  bool shuffle = false;
  bool drop_last = false;
  int64_t num_workers = 1;
  std::optional<int64_t> prefetch = std::nullopt;
  std::optional<uint64_t> seed = std::nullopt;

  static constexpr auto fields() {
    using config::field, config::at_least;
    return std::tuple{
        field<&DataLoaderOptions::batch_size>("Samples in a batch, per process.", at_least(1)),
        field<&DataLoaderOptions::global_batch_size>(
            "Samples in an optimizer step of all processes together, in place of batch_size: "
            "world_size * accumulate_grad_batches batches.",
            at_least(1)),
        field<&DataLoaderOptions::shuffle>("A new order each epoch instead of the data set's own."),
        field<&DataLoaderOptions::drop_last>(
            "Leave out a last batch that is smaller than the others."),
        field<&DataLoaderOptions::num_workers>(
            "Threads that fetch batches ahead; 0 fetches in the calling thread. The batches are "
            "the same for any number.",
            at_least(0)),
        field<&DataLoaderOptions::prefetch>(
            "Batches held ready at most; unset: as many as fit 16 MiB, 2 to 64; 8 of a stream.",
            at_least(1)),
        field<&DataLoaderOptions::seed>("Seed of the order; unset: the run's seed.")};
  }
  /// Throws ConfigError when both batch sizes are given.
  void validate() const;
};

/// The batch size with which an optimizer step of all processes, each with accumulate_grad_batches
/// batches, takes `global_batch_size` samples. Throws ConfigError where that does not come out
/// even.
int64_t batch_size_for(int64_t global_batch_size, const Division& division);

/// Position p of an epoch holds sample Permutation(dataset.size(), derive_seed(seed, epoch))[p]
/// when shuffled, else sample p; batch b holds the positions from b * batch_size on. An
/// IterableDataset gives its samples in its own order, and its number of batches is unknown.
///
/// Among several processes (divide_batches()) batch b of all of them together holds the positions
/// from b * world_size * batch_size on, one process's after the other's: the same samples for any
/// number of processes. The last batch is shared out evenly, but no process is left with a single
/// sample where batches have more (batch norm cannot train on one): some have none then.
///
/// The data set is called without gradients, and in the loader's threads LibTorch's operators use
/// that one thread only.
///
/// Movable, not copyable; empty (no data set) when default-constructed, which stands for "no such
/// data": then every member but operator bool throws UsageError. For one thread at a time.
class DataLoader {
 public:
  DataLoader();
  /// Throws DataError for a data set without samples, or with drop_last without a full batch;
  /// ConfigError for options out of range.
  DataLoader(std::shared_ptr<const Dataset> dataset, DataLoaderOptions options);
  /// Pulls the samples on one thread, or none with num_workers = 0. Throws ConfigError for options
  /// out of range, and for shuffle.
  DataLoader(std::shared_ptr<IterableDataset> dataset, DataLoaderOptions options);
  /// Batches from a CombinedLoader, or a source of your own.
  explicit DataLoader(std::unique_ptr<BatchSource> source);
  DataLoader(DataLoader&&) noexcept;
  DataLoader& operator=(DataLoader&&) noexcept;
  ~DataLoader();

  explicit operator bool() const { return source_ != nullptr; }

  /// Batches in an epoch; kUnknownSize (-1) where only the end of the epoch tells.
  int64_t size() const;
  /// Samples of this process in batch `batch_idx` of an epoch: batch_size, or less for the last
  /// one, down to 0 where there are several processes. Throws UsageError for a batch that is not
  /// there; as do the next two members, also where the batches do not come from a Dataset.
  int64_t num_samples(int64_t batch_idx) const;
  const Dataset& dataset() const;
  const DataLoaderOptions& options() const;

  /// What a position within an epoch depends on: {"samples": 100, "batch_size": 8, "shuffle":
  /// true}, where batch_size is that of all processes together,
  /// {"batch_size": 8} for a stream, {"mode": "min_size", "loaders": [...]} for a CombinedLoader.
  nlohmann::json shape() const;

  /// Begins `epoch` at batch `first_batch`, in O(1) whatever the position: what a checkpoint has to
  /// keep is these two numbers and the seed; for a stream also state_dict(), without which the
  /// samples before are read again and dropped. Stops an epoch that is under way. `num_batches`
  /// ends the epoch early (limit_*_batches), so that nothing is fetched in vain; -1 for all. Throws
  /// UsageError for numbers out of range; `first_batch` may be size(): nothing is left then.
  void start(int64_t epoch, int64_t first_batch = 0, int64_t num_batches = -1);

  /// The next batch, or nothing at the end of the epoch. Rethrows what the data set threw for that
  /// batch, which ends the epoch. Throws UsageError before the first start().
  std::optional<Batch> next();

  /// Samples of all processes together in the batch that next() gave last; nothing where the
  /// processes do not share their data in a way that tells.
  std::optional<int64_t> global_samples() const;
  /// That batch is a sample of another process, given so that this one can go on beside it: it has
  /// none left of its own.
  bool is_repeated() const;

  /// Which loader of a sequential CombinedLoader the last batch came from; 0 for all others.
  int64_t dataloader_idx() const;

  /// Ends the epoch early; waits for the batches that are being fetched. The threads sleep until
  /// the next start().
  void stop();

  /// What a stream needs besides the numbers of start(), as of the last batch that next() gave;
  /// null where nothing is needed.
  nlohmann::json state_dict() const;
  /// For the next start(), which throws CheckpointError where the state is of another position.
  void load_state_dict(const nlohmann::json& state);

  /// Takes this process's part from now on, and sets batch_size where global_batch_size was given;
  /// until then that stands for one process and no accumulation. Ends an epoch that is under way.
  /// Throws ConfigError where it does not come out even, DataError where drop_last then leaves
  /// nothing.
  void divide_batches(const Division& division);
  /// Turns shuffle off, before the first start(): overfit_batches trains on the same batches again.
  void keep_order();

 private:
  class DatasetSource;
  BatchSource& source() const;
  const DatasetSource& dataset_source() const;

  std::unique_ptr<BatchSource> source_;
  bool started_ = false;
};

}  // namespace trainer
