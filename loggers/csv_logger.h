#pragma once
// Metrics as a table in metrics.csv, for spreadsheets, pandas and plots: the file that Lightning's
// CSVLogger writes.
//
// One row per log_metrics(): `epoch,step,<metrics in the order of their first appearance>`, an
// empty cell where the row lacks a metric, RFC 4180 quotes around names that need them. Numbers
// read back as the same double; nan, inf, -inf.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include <loggers/row_file.h>
#include <trainer/core/filesystem.h>
#include <trainer/logger.h>

namespace trainer {

class CSVLogger : public Logger {
 public:
  static constexpr const char* kDoc = "Writes metrics.csv, a table with one column per metric.";

  /// Appends to the folder's metrics.csv, dropping a row that a killed run left unfinished. Throws
  /// IoError when it cannot be written, DataError when it is not a table of this logger.
  void setup(const fs::Path& run_dir) override;

  /// A metric that had no column yet gets one: the file is written anew, wider, beside the old one
  /// and renamed. A metric called "step" gives way to `step`. Throws IoError.
  void log_metrics(const Metrics& metrics, int64_t step) override;
  void save() override;

  /// {"rows": N}.
  nlohmann::json state_dict() const override;
  /// Keeps the header and the first N rows. Throws CheckpointError, IoError.
  void load_state_dict(const nlohmann::json& state) override;

 private:
  void open();
  /// Takes the columns from the file; returns the lines of the header, 0 for an empty file.
  int64_t read_header();
  /// Points cells_ at the values; false when one has no column.
  bool fill_cells(const Metrics& metrics);
  void add_columns(const Metrics& metrics);
  /// Replaces the file by one with these columns, the present ones with some added or some taken
  /// away at the end.
  void rewrite(const std::vector<std::string>& columns);

  fs::Path path_;
  std::optional<RowFile> file_ = std::nullopt;
  std::vector<std::string> columns_;
  std::unordered_map<std::string, size_t> column_of_;
  size_t header_bytes_ = 0;
  std::vector<const double*> cells_;  // of the row being written
  std::string row_;
};

}  // namespace trainer
