#pragma once
// Where a run is: the counters that loops advance, callbacks read and checkpoints keep.

#include <cstdint>

namespace trainer {

/// What a Trainer was asked to do.
enum class Stage { kFit, kValidate, kTest, kPredict };

/// "fit", "validate", "test", "predict".
const char* to_string(Stage stage);

struct Progress {
  int64_t current_epoch = 0;  ///< Epochs finished before this one.
  int64_t global_step = 0;    ///< Optimizer steps taken since training began.
  int64_t batch_idx = 0;      ///< Batches of the current epoch that are done.
};

}  // namespace trainer
