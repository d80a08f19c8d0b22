#pragma once
// Where a DataLoader takes its batches from. A data set, a stream and a CombinedLoader are behind
// it; derive from it for batches that come in another way, and hand it to a DataLoader.

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
