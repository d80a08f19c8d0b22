#pragma once
// Data that comes one sample after the other: a socket, a generator, files too large to index.

#include <cstdint>
#include <optional>

#include <nlohmann/json.hpp>

#include <trainer/core/batch.h>

namespace trainer {

/// A stream of samples whose number only its end tells. Derive from it and override start() and
/// next(), and for a resume within an epoch that does not read everything again either skip(), or
/// state_dict() and load_state_dict().
///
///   class Counter : public IterableDataset {
///     void start(int64_t epoch) override { ... }
///     std::optional<Batch> next() override { ... }
///   };
///
/// Called by one thread at a time, which is not always the same.
class IterableDataset {
 public:
  virtual ~IterableDataset() = default;

  /// Called before start() where several processes share the stream. Return true, and give one of
  /// `world_size` parts from then on, where that is cheaper than passing over the others' samples;
  /// the parts may be of different lengths. The default gives every process the whole stream, of
  /// which the loader takes its part.
  virtual bool shard(int /*rank*/, int /*world_size*/) { return false; }

  /// Goes to the first sample of an epoch.
  virtual void start(int64_t epoch) = 0;
  /// The next sample, its tensors without a batch dimension; nothing at the end of the epoch.
  virtual std::optional<Batch> next() = 0;
  /// Passes over samples. The default calls next() as often, or until the end.
  virtual void skip(int64_t num_samples);

  /// The position, read between two samples and kept in checkpoints; null where a resumed run is to
  /// skip() instead.
  virtual nlohmann::json state_dict() const { return nullptr; }
  /// Restores a position after start() of its epoch; only called with what state_dict() gave.
  virtual void load_state_dict(const nlohmann::json&) {}
};

}  // namespace trainer
