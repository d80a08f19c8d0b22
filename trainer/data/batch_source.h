#pragma once
// Where a DataLoader takes its batches from. A data set, a stream and a CombinedLoader are behind
// it; derive from it for batches that come in another way, and hand it to a DataLoader.

#include <algorithm>
#include <cstdint>
#include <optional>

#include <nlohmann/json.hpp>

#include <trainer/core/batch.h>

namespace trainer {

/// The size of what only its end tells.
inline constexpr int64_t kUnknownSize = -1;

/// Which part of each batch is one process's.
struct Division {
  int rank = 0;
  int world_size = 1;
  int64_t accumulate_grad_batches = 1;
  /// The processes share the samples; else each one goes through all that its own loader has.
  bool shards = true;
};

/// A process's part of the samples of a batch, as positions in it.
struct Share {
  int64_t begin = 0;
  int64_t size = 0;
  bool is_repeated = false;  // they are another process's, for one that has none of its own
};

/// The parts of `samples`, at most `batch_size` of which are one process's, lie one after the
/// other; of a smaller batch the first processes have one sample more. No process is left with a
/// single sample where batches have more, as batch norm cannot train on one: rather, the last
/// processes have none.
inline Share share_of(int64_t samples, int64_t batch_size, int64_t rank, int64_t num_sharing) {
  const int64_t least = std::min<int64_t>(batch_size, 2);
  const int64_t num_with = std::clamp<int64_t>(samples / least, 1, num_sharing);
  if (rank >= num_with) {
    return {.begin = 0, .size = std::min(least, samples), .is_repeated = true};
  }
  const int64_t each = samples / num_with;
  const int64_t more = samples % num_with;
  return {.begin = rank * each + std::min(rank, more), .size = each + (rank < more ? 1 : 0)};
}

/// For one thread at a time. The members mean what they mean for DataLoader, which checks the
/// numbers that start() is given.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  virtual int64_t size() const = 0;
  virtual void start(int64_t epoch, int64_t first_batch, int64_t num_batches) = 0;
  virtual std::optional<Batch> next() = 0;
  virtual void stop() = 0;

  virtual int64_t dataloader_idx() const { return 0; }
  virtual nlohmann::json shape() const = 0;
  virtual nlohmann::json state_dict() const { return nullptr; }
  virtual void load_state_dict(const nlohmann::json&) {}
  virtual void divide_batches(const Division&) {}
  virtual std::optional<int64_t> global_samples() const { return std::nullopt; }
  virtual bool is_repeated() const { return false; }
  virtual void keep_order() {}
};

}  // namespace trainer
