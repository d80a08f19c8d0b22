#pragma once
// Data sets and streams of numbers, so that tests see which samples came.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/Functions.h>

#include <trainer/data/data_loader.h>

namespace trainer::test {

/// The number `value`, as a sample without dimensions.
inline Batch number(int64_t value) { return {at::scalar_tensor(value, at::kLong)}; }

/// Sample i is offset + i.
class NumberDataset : public Dataset {
 public:
  explicit NumberDataset(int64_t size, int64_t offset = 0) : size_(size), offset_(offset) {}
  int64_t size() const override { return size_; }
  Batch get(int64_t index) const override { return number(offset_ + index); }

 private:
  int64_t size_, offset_;
};

/// Epoch e yields 1000 * e, 1000 * e + 1, ... `size` of them. Counts what is pulled.
class NumberStream : public IterableDataset {
 public:
  explicit NumberStream(int64_t size) : size_(size) {}
  void start(int64_t epoch) override {
    epoch_ = epoch;
    position_ = 0;
  }
  std::optional<Batch> next() override {
    if (position_ == size_) {
      return std::nullopt;
    }
    ++num_pulled;
    // Unsigned: a cycle's epoch is any number.
    return number(static_cast<int64_t>(1000 * static_cast<uint64_t>(epoch_)) + position_++);
  }

  int64_t num_pulled = 0;

 protected:
  int64_t size_, epoch_ = 0, position_ = 0;
};

inline std::vector<int64_t> values_of(const Batch& batch) {
  if (batch.empty()) {
    return {};
  }
  const auto* first = batch[0].const_data_ptr<int64_t>();
  return {first, first + batch[0].numel()};
}

using Batches = std::vector<std::vector<int64_t>>;

inline Batches rest_of(DataLoader& loader) {
  Batches batches;
  while (const auto batch = loader.next()) {
    batches.push_back(values_of(*batch));
  }
  return batches;
}

inline Batches epoch_of(DataLoader& loader, int64_t epoch, int64_t first_batch = 0,
                        int64_t num_batches = -1) {
  loader.start(epoch, first_batch, num_batches);
  return rest_of(loader);
}

}  // namespace trainer::test
