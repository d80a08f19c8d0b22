#pragma once
// What a checkpoint holds of a run: how it is written, and how each part finds its way back.

#include <nlohmann/json.hpp>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/fit_loop.h>
#include <trainer/run.h>

namespace trainer {

/// Writes the whole state of a fit to the folder `path`: rank 0 does, or where parameters are
/// sharded every rank its part. Throws IoError where it cannot be written and UsageError for what
/// cannot be saved, where parameters are sharded on all ranks alike; and what hooks throw.
/// Collective: yes. Syncs: yes.
void save_run(const fs::Path& path, Run& run, FitLoop& loop);

/// The state in a checkpoint, given back part by part. Everything throws CheckpointError where the
/// checkpoint does not fit the run or lacks the part, and what the user's hooks throw.
class SavedRun {
 public:
  explicit SavedRun(const CheckpointReader& checkpoint);

  const fs::Path& path() const { return checkpoint_.path(); }
  uint64_t seed() const;
  Progress progress() const;

  /// The module's hook and its weights.
  void restore_module(Module& module) const;
  /// The same with the callbacks' hooks. Of weights that are going to be sharded it checks names
  /// and shapes alone.
  void restore_model(Run& run) const;
  /// Those weights, into this rank's segments of them. Collective: yes.
  void restore_segments(Run& run) const;
  /// The states of the data module and the callbacks.
  void restore_callbacks(Run& run) const;
  /// Cuts what loggers wrote after the checkpoint.
  void restore_loggers(Run& run) const;
  /// Counters, schedule and optimizer. Collective: yes, where parameters are sharded.
  void restore_loop(FitLoop& loop, Run& run) const;

 private:
  void call_load_hook(Module& module) const;
  void restore_weights(Module& module, const Sharding* sharding) const;
  template <class F>
  void naming_the_module(const Module& module, const F& action) const;
  void restore_optimizers(Optimization& optimization, Run& run) const;

  const CheckpointReader& checkpoint_;
  nlohmann::json state_;
};

}  // namespace trainer
