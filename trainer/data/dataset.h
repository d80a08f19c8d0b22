#pragma once
// A data set: a number of samples that can be fetched by index, from any thread, in any order.
// Derive from Dataset for data of your own; TensorDataset, Subset and random_split() cover what
// fits in memory and how it is divided.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <torch/types.h>

#include <trainer/core/batch.h>

namespace trainer {

/// Derive from it and override size() and get(), or get_batch() where many samples are fetched
/// faster at once. get() and get_batch() are called from loader threads, several at a time: they
/// must not change the object.
class Dataset {
 public:
  virtual ~Dataset() = default;

  virtual int64_t size() const = 0;

  /// One sample; its tensors have no batch dimension. Throws UsageError where only get_batch() is
  /// overridden.
  virtual Batch get(int64_t index) const;

  /// The samples at `indices`, stacked: [indices.size(), ...]. The default stacks what get()
  /// returns and throws UsageError, naming both samples, when their names, shapes or dtypes differ.
  virtual Batch get_batch(std::span<const int64_t> indices) const;

  /// What a DataLoader calls. Override them where a sample differs from epoch to epoch, as under
  /// random augmentation; the defaults are get() and get_batch().
  virtual Batch get_in_epoch(int64_t index, int64_t) const { return get(index); }
  virtual Batch get_batch_in_epoch(std::span<const int64_t> indices, int64_t) const {
    return get_batch(indices);
  }

 protected:
  /// Stacks `samples`, which were fetched for `indices`; throws as get_batch() does.
  Batch stack(const std::vector<Batch>& samples, std::span<const int64_t> indices) const;
};

/// Samples that lie in memory: tensors with an equal first dimension, [size, ...] each, which
/// are shared with the caller where they are contiguous. Batches are copies: changing one does not
/// change the data set.
class TensorDataset : public Dataset {
 public:
  /// Throws DataError when the tensors are empty, not dense or their first dimensions differ,
  /// UsageError for another number of names than of tensors.
  explicit TensorDataset(std::vector<torch::Tensor> tensors, std::vector<std::string> names = {});

  int64_t size() const override { return size_; }
  /// Throws UsageError for an index outside of the data set, as does get_batch().
  Batch get(int64_t index) const override;
  Batch get_batch(std::span<const int64_t> indices) const override;

 private:
  Batch gather(std::span<const int64_t> indices, size_t first_dim) const;

  std::vector<torch::Tensor> tensors_;  // contiguous, on the processor
  std::vector<std::string> names_;
  int64_t size_ = 0;
};

/// The part of another data set at given indices.
class Subset : public Dataset {
 public:
  /// Throws UsageError for an index outside of the data set.
  Subset(std::shared_ptr<const Dataset> dataset, std::vector<int64_t> indices);

  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  /// Throws UsageError for an index outside of the subset, as does get_batch().
  Batch get(int64_t index) const override;
  Batch get_batch(std::span<const int64_t> indices) const override;
  Batch get_in_epoch(int64_t index, int64_t epoch) const override;
  Batch get_batch_in_epoch(std::span<const int64_t> indices, int64_t epoch) const override;

 private:
  int64_t mapped(int64_t index) const;
  std::vector<int64_t> mapped(std::span<const int64_t> indices) const;

  std::shared_ptr<const Dataset> dataset_;
  std::vector<int64_t> indices_;
};

/// Another data set with a function applied to every sample, on the loader's threads: augmentation,
/// tokenization, decoding.
///
///   TransformedDataset noisy(dataset, [](Batch sample, torch::Generator& generator) {
///     auto [x, y] = sample.unpack<2>();
///     return Batch{x + 0.1 * torch::randn(x.sizes(), generator), y};
///   });
///
/// The generator is seeded by derive_seed(seed, epoch, index): a sample is the same for any number
/// of threads and after a resume, and another one in the next epoch. Draw from it and not from
/// LibTorch's global one. Give transforms that are nested seeds of their own.
class TransformedDataset : public Dataset {
 public:
  /// Takes one sample and gives one; called from several threads at a time.
  using Transform = std::function<Batch(Batch sample, torch::Generator& generator)>;

  /// `seed` unset: the run's. Throws UsageError for no data set or no function.
  TransformedDataset(std::shared_ptr<const Dataset> dataset, Transform transform,
                     std::optional<uint64_t> seed = std::nullopt);

  int64_t size() const override { return dataset_->size(); }
  /// As in epoch 0.
  Batch get(int64_t index) const override { return get_in_epoch(index, 0); }
  Batch get_batch(std::span<const int64_t> indices) const override {
    return get_batch_in_epoch(indices, 0);
  }
  Batch get_in_epoch(int64_t index, int64_t epoch) const override;
  Batch get_batch_in_epoch(std::span<const int64_t> indices, int64_t epoch) const override;

 private:
  Batch transformed(int64_t index, int64_t epoch, torch::Generator& generator) const;

  std::shared_ptr<const Dataset> dataset_;
  Transform transform_;
  std::optional<uint64_t> seed_;
};

/// Splits a data set at random into parts of the given fractions (which add up to 1); the same seed
/// gives the same parts on every machine. Every sample is in exactly one part. Throws UsageError
/// for fractions that do not add up, DataError when a part would be empty.
std::vector<std::shared_ptr<Subset>> random_split(std::shared_ptr<const Dataset> dataset,
                                                  const std::vector<double>& fractions,
                                                  uint64_t seed);

}  // namespace trainer
