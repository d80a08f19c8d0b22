#pragma once
// A text file with one row a line that survives being killed and can be cut back to a checkpoint:
// the part that the CSV and the JSON Lines logger share.

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <loggers/append_file.h>
#include <trainer/core/filesystem.h>

namespace trainer {

class RowFile {
 public:
  /// Opens the file, or makes an empty one. Its first `header_lines` lines are no rows. A last line
  /// without its newline is what a killed run left of a row; it is dropped. Throws IoError.
  explicit RowFile(const fs::Path& path, int64_t header_lines = 0);

  /// `row` is one line and ends in its newline. Throws IoError.
  void append(std::string_view row) {
    file_.append(row);
    ++lines_;
  }

  /// Hands the rows to the operating system. Throws IoError.
  void flush() { file_.flush(); }

  /// {"rows": N}, N counting those in the buffer.
  nlohmann::json state_dict() const { return {{"rows", lines_ - header_lines_}}; }

  /// Cuts the file to the N rows of a state. A file that has fewer is left as it is, with a warning
  /// unless it is empty (the run was resumed in another folder). Throws CheckpointError for a state
  /// of another form; IoError.
  void load_state_dict(const nlohmann::json& state);

 private:
  AppendFile file_;
  int64_t lines_ = 0;
  int64_t header_lines_;
};

/// The whole file, while `file` lives.
inline std::string_view text_of(const fs::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// Appends the shortest text that reads back as the same double: `1`, `0.1`, `1e-07`, `nan`, `inf`,
/// `-inf`.
void append_number(std::string& out, double value);

}  // namespace trainer
