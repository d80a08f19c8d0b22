#pragma once
// Metrics for TensorBoard: `tensorboard --logdir runs` shows them beside those of other runs. Every
// metric is a scalar chart, "epoch" too, as in Lightning; values are float32 there, so keep a
// CSVLogger for exact ones.
//
// The folder gets a file events.out.tfevents.<time>.<host>.<pid>.<uid> at the first write. A
// resumed run writes another that tells TensorBoard to drop the older file's points after the
// checkpoint. Points of the checkpoint's own step that were logged after it are kept and come a
// second time.

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include <loggers/append_file.h>
#include <trainer/core/filesystem.h>
#include <trainer/logger.h>

namespace trainer {

class TensorBoardLogger : public Logger {
 public:
  static constexpr const char* kDoc = "Writes an event file that TensorBoard shows.";

  /// Throws IoError when the folder cannot be made.
  void setup(const fs::Path& run_dir) override;

  /// Throws IoError, at the first call also when the event file cannot be made.
  void log_metrics(const Metrics& metrics, int64_t step) override;
  void save() override;

  /// {"last_step": S}; -1 before the first row.
  nlohmann::json state_dict() const override;
  /// Points after step S are dropped by TensorBoard once something is logged; one at step S that
  /// was written after the checkpoint stays. Throws CheckpointError, IoError.
  void load_state_dict(const nlohmann::json& state) override;

 private:
  void open();

  fs::Path run_dir_;
  std::optional<AppendFile> file_ = std::nullopt;
  std::unordered_set<std::string> tags_;  // that file_ has metadata of
  int64_t last_step_ = -1;
  bool resumed_ = false;
};

}  // namespace trainer
