#pragma once
// Metrics as JSON Lines in metrics.jsonl, for programs: jq, pandas, a dashboard that follows the
// file.
//
// One object a line, in the order of logging, without a time, so that equal runs make equal files:
// {"schema":1,"epoch":0,"step":49,"metrics":{"train_loss":0.25,"lr":0.001}}
// "epoch" is null when the row has none. Numbers read back as the same double; "nan", "inf" and
// "-inf" are strings, since JSON has no such numbers. "schema" counts up when the meaning of a key
// changes.

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include <loggers/row_file.h>
#include <trainer/core/filesystem.h>
#include <trainer/logger.h>

namespace trainer {

class JSONLLogger : public Logger {
 public:
  static constexpr const char* kDoc = "Writes metrics.jsonl, one JSON object per row.";

  /// Appends to the folder's metrics.jsonl, dropping a row that a killed run left unfinished.
  /// Throws IoError.
  void setup(const fs::Path& run_dir) override;

  /// Bytes of a name that are not UTF-8 become U+FFFD. Throws IoError.
  void log_metrics(const Metrics& metrics, int64_t step) override;
  void save() override;

  /// {"rows": N}.
  nlohmann::json state_dict() const override;
  /// Keeps the first N rows. Throws CheckpointError, IoError.
  void load_state_dict(const nlohmann::json& state) override;

 private:
  std::optional<RowFile> file_ = std::nullopt;
  std::string epoch_;
  std::string values_;
};

}  // namespace trainer
