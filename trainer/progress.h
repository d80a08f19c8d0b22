#pragma once
// Where a run is: the counters that loops advance, callbacks read and checkpoints keep.

#include <cstdint>

#include <nlohmann/json_fwd.hpp>

namespace trainer {

/// What a Trainer was asked to do.
enum class Stage { kFit, kValidate, kTest, kPredict };

/// "fit", "validate", "test", "predict".
const char* to_string(Stage stage);

struct Progress {
  int64_t current_epoch = 0;  ///< Epochs finished before this one.
  int64_t global_step = 0;    ///< Optimizer steps taken since training began.
  int64_t batch_idx = 0;      ///< Batches of the current epoch that are done.
  int64_t batches = 0;        ///< Training batches done since training began.
  int64_t samples = 0;        ///< Samples trained on since training began.
  /// Batches that ended a window: what loggers count. The same as global_step, except where a
  /// module optimizes by hand: there every batch counts, however many optimizers stepped in it.
  int64_t stepped_batches = 0;
  int64_t dataloader_idx = 0;  ///< Which of several evaluation loaders the batch comes from.
  int64_t optimizer_idx = 0;   ///< Which of several optimizers steps: OptimizerConfig::frequency().
};

/// The counters, by name: all but the two indices at the end.
void to_json(nlohmann::json& json, const Progress& progress);
void from_json(const nlohmann::json& saved, Progress& progress);

}  // namespace trainer
