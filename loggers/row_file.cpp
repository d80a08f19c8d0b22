#include <loggers/row_file.h>

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/compile.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

/// The size of the first `lines` lines.
size_t size_of_lines(std::string_view text, int64_t lines) {
  size_t size = 0;
  for (; lines > 0; --lines) {
    const size_t newline = text.find('\n', size);
    if (newline == std::string_view::npos) {
      return text.size();
    }
    size = newline + 1;
  }
  return size;
}

}  // namespace

RowFile::RowFile(const fs::Path& path, int64_t header_lines)
    : file_(path), header_lines_(header_lines) {
  size_t complete = 0;
  {
    const fs::MappedFile file(path);
    const std::string_view text = text_of(file);
    lines_ = std::count(text.begin(), text.end(), '\n');
    complete = text.rfind('\n') + 1;  // npos + 1 is 0: no line is complete
  }
  file_.cut(complete);
}

void RowFile::load_state_dict(const nlohmann::json& state) {
  const bool valid =
      state.is_object() && state.contains("rows") && state["rows"].is_number_integer();
  const int64_t wanted = valid ? state["rows"].get<int64_t>() : -1;
  if (wanted < 0) {
    throw CheckpointError(
        fmt::format("{}: the checkpoint's state of this logger is {}, not {{\"rows\": N}}. Resume "
                    "with the loggers of the run that wrote the checkpoint.",
                    file_.path().string(),
                    state.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  const int64_t rows = lines_ - header_lines_;
  if (wanted > rows && rows > 0) {
    log::warning(
        fmt::format("{}: has {} rows, {} when the checkpoint was written. The missing rows never "
                    "reached the disk; training is not affected.",
                    file_.path().string(), rows, wanted));
  }
  if (wanted < rows) {
    file_.flush();
    lines_ = header_lines_ + wanted;
    const fs::MappedFile file(file_.path());
    file_.cut(size_of_lines(text_of(file), lines_));
  }
}

void append_number(std::string& out, double value) {
  if (std::isnan(value)) {
    out += "nan";  // fmt would show the sign of a NaN
    return;
  }
  std::array<char, 32> text;
  out.append(text.data(), fmt::format_to(text.data(), FMT_COMPILE("{}"), value));
}

}  // namespace trainer
