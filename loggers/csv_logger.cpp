#include <loggers/csv_logger.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 10;
constexpr size_t kStepColumn = 1;

/// RFC 4180: https://www.rfc-editor.org/rfc/rfc4180#section-2
void append_name(std::string& out, std::string_view name) {
  if (name.find_first_of(",\"\r\n") == std::string_view::npos) {
    out += name;
    return;
  }
  out += '"';
  for (const char c : name) {
    out.append(c == '"' ? 2 : 1, c);
  }
  out += '"';
}

std::string header_text(const std::vector<std::string>& columns) {
  std::string text;
  for (const std::string& name : columns) {
    append_name(text, name);
    text += ',';
  }
  text.back() = '\n';
  return text;
}

/// The names before the first newline that is not within quotes; none when there is no such
/// newline.
std::vector<std::string> parse_header(std::string_view text) {
  std::vector<std::string> names(1);
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && quoted && i + 1 < text.size() && text[i + 1] == '"') {
      names.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      names.emplace_back();
    } else if (c == '\n' && !quoted) {
      return names;
    } else {
      names.back() += c;
    }
  }
  return {};
}

bool starts_as_ours(const std::vector<std::string>& columns) {
  return columns.size() > kStepColumn && columns[0] == "epoch" && columns[kStepColumn] == "step";
}

/// Copies `rows` with cells added at the end of each, or the empty cells at its end removed, so
/// that `old_columns` become `new_columns`.
void write_resized_rows(std::string_view rows, size_t old_columns, size_t new_columns,
                        fs::OutputFile& out) {
  const size_t added = new_columns > old_columns ? new_columns - old_columns : 0;
  const size_t removed = old_columns > new_columns ? old_columns - new_columns : 0;
  std::string chunk;
  while (!rows.empty()) {
    const size_t length = std::min(rows.find('\n'), rows.size() - 1);
    chunk += rows.substr(0, length - removed);
    chunk.append(added, ',');
    chunk += '\n';
    rows.remove_prefix(length + 1);
    if (chunk.size() > kChunkBytes) {
      out.write(chunk);
      chunk.clear();
    }
  }
  out.write(chunk);
}

}  // namespace

void CSVLogger::setup(const fs::Path& run_dir) {
  fs::create_directories(run_dir);
  path_ = run_dir / "metrics.csv";
  open();
}

void CSVLogger::open() {
  std::error_code error;  // of a path that RowFile will not be able to open either
  const bool exists = std::filesystem::is_regular_file(path_, error);
  const int64_t header_lines = exists ? read_header() : 0;
  file_.emplace(path_, header_lines);
}

int64_t CSVLogger::read_header() {
  const fs::MappedFile file(path_);
  const std::string_view text = text_of(file);
  columns_.clear();
  column_of_.clear();
  header_bytes_ = 0;
  if (text.empty()) {
    return 0;  // the first row brings the header
  }
  columns_ = parse_header(text);
  const std::string header = starts_as_ours(columns_) ? header_text(columns_) : "";
  if (header.empty() || !text.starts_with(header)) {
    throw DataError(fmt::format(
        "{}:1: is not a header that CSVLogger wrote (epoch,step,...), so rows cannot be appended. "
        "Move the file away, or choose another folder.",
        path_.string()));
  }
  header_bytes_ = header.size();
  for (size_t i = 0; i < columns_.size(); ++i) {
    column_of_.emplace(columns_[i], i);
  }
  return std::count(header.begin(), header.end(), '\n');
}

void CSVLogger::log_metrics(const Metrics& metrics, int64_t step) {
  TRAINER_CHECK(file_, "CSVLogger: log_metrics() before setup()");
  if (!fill_cells(metrics)) {
    add_columns(metrics);
    fill_cells(metrics);
  }
  row_.clear();
  for (size_t i = 0; i < cells_.size(); ++i) {
    if (i == kStepColumn) {
      row_ += fmt::format_int(step).c_str();
    } else if (cells_[i] != nullptr) {
      append_number(row_, *cells_[i]);
    }
    row_ += ',';
  }
  row_.back() = '\n';
  file_->append(row_);
}

bool CSVLogger::fill_cells(const Metrics& metrics) {
  cells_.assign(columns_.size(), nullptr);
  bool complete = !columns_.empty();
  for (const auto& [name, value] : metrics) {
    const auto found = column_of_.find(name);
    if (found == column_of_.end()) {
      complete = false;
    } else {
      cells_[found->second] = &value;
    }
  }
  return complete;
}

void CSVLogger::add_columns(const Metrics& metrics) {
  std::vector<std::string> columns = columns_;
  if (columns.empty()) {
    columns = {"epoch", "step"};
  }
  for (const auto& [name, value] : metrics) {
    if (std::find(columns.begin(), columns.end(), name) == columns.end()) {
      columns.push_back(name);
    }
  }
  rewrite(columns);
}

void CSVLogger::rewrite(const std::vector<std::string>& columns) {
  file_->flush();
  fs::write_atomically(path_, [&](fs::OutputFile& file) {
    const fs::MappedFile old(path_);
    if (!columns.empty()) {
      file.write(header_text(columns));
    }
    const std::string_view text = text_of(old);
    const std::string_view rows = text.substr(std::min(header_bytes_, text.size()));
    write_resized_rows(rows, columns_.size(), columns.size(), file);
  });
  open();
}

void CSVLogger::save() {
  if (file_) {
    file_->flush();
  }
}

nlohmann::json CSVLogger::state_dict() const {
  TRAINER_CHECK(file_, "CSVLogger: state_dict() before setup()");
  auto state = file_->state_dict();
  state["columns"] = columns_.size();
  return state;
}

void CSVLogger::load_state_dict(const nlohmann::json& state) {
  TRAINER_CHECK(file_, "CSVLogger: load_state_dict() before setup()");
  file_->load_state_dict(state);
  // Columns that came after the checkpoint go too: they come again, in the order in which the
  // resumed run logs them.
  const size_t kept = state.value("columns", columns_.size());
  if (kept < columns_.size()) {
    rewrite({columns_.begin(), columns_.begin() + static_cast<std::ptrdiff_t>(kept)});
  }
}

}  // namespace trainer
