#include <trainer/data/readers/csv.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::data {
namespace {

/// A cell as an error message can show it: printable ASCII, and not too long.
std::string shown(std::string_view cell) {
  constexpr size_t kMaxShown = 40;
  std::string text;
  for (const char c : cell.substr(0, kMaxShown)) {
    text += c >= ' ' && c <= '~' ? std::string(1, c)
                                 : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return cell.size() > kMaxShown ? text + "..." : text;
}

std::string_view trimmed(std::string_view cell) {
  const size_t first = cell.find_first_not_of(" \t");
  return first == std::string_view::npos
             ? std::string_view()
             : cell.substr(first, cell.find_last_not_of(" \t") - first + 1);
}

template <typename T>
class CsvParser {
 public:
  CsvParser(const fs::Path& path, std::string_view text, const CsvOptions& options)
      : path_(path), rest_(text), options_(options) {}

  torch::Tensor parse() {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
    if (rest_.starts_with(kByteOrderMark)) {
      rest_.remove_prefix(kByteOrderMark.size());
    }
    if (options_.header && !rest_.empty()) {
      next_line();
    }
    while (!rest_.empty()) {
      next_line();
      parse_record();
    }
    if (num_records_ == 0) {
      throw DataError(
          fmt::format("{}: {}.\n  Check the path, or write the file again.", path_.string(),
                      line_number_ == 0 ? "is empty" : "holds a header but no records"));
    }
    return torch::from_blob(cells_.data(), {num_records_, num_columns_}, options_.dtype).clone();
  }

 private:
  void next_line() {
    ++line_number_;
    const size_t size = std::min(rest_.find('\n'), rest_.size());
    line_ = rest_.substr(0, size);
    rest_.remove_prefix(std::min(size + 1, rest_.size()));
    if (line_.ends_with('\r')) {
      line_.remove_suffix(1);
    }
  }

  void parse_record() {
    ++num_records_;
    int64_t column = 0;
    size_t begin = 0;
    while (begin <= line_.size()) {  // equal: an empty cell at the end
      const size_t end = std::min(line_.find(options_.delimiter, begin), line_.size());
      cells_.push_back(number(line_.substr(begin, end - begin), ++column));
      begin = end + 1;
    }
    if (num_records_ == 1) {
      num_columns_ = column;
    }
    if (column != num_columns_) {
      fail(line_.size(),
           fmt::format("record {} has {} columns, record 1 has {}", num_records_, column,
                       num_columns_),
           fmt::format("Give every record the same number of cells, with '{}' between them.",
                       shown({&options_.delimiter, 1})));
    }
  }

  T number(std::string_view cell, int64_t column) const {
    std::string_view digits = trimmed(cell);
    // from_chars does not know this one form of a number.
    if (digits.starts_with('+') && !digits.starts_with("+-")) {
      digits.remove_prefix(1);
    }
    T value = 0;
    const char* last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, value);
    if (end != last || error == std::errc::invalid_argument) {
      fail_text(cell, column);
    }
    if (error == std::errc::result_out_of_range) {
      return rounded_to_zero(digits, cell, column);
    }
    if (!options_.allow_non_finite && !std::isfinite(value)) {
      fail_cell(cell, column, "not finite",
                "Drop the record or fill in a value; allow_non_finite = true lets it through.");
    }
    return value;
  }

  /// from_chars reports underflow and overflow alike; only the first may pass, as zero.
  T rounded_to_zero(std::string_view digits, std::string_view cell, int64_t column) const {
    long double value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || std::fabs(value) > 1) {
      fail_cell(cell, column,
                fmt::format("out of the range of {}", sizeof(T) == 4 ? "float32" : "float64"),
                sizeof(T) == 4 ? "Scale the column, or read it with dtype = torch::kFloat64."
                               : "Scale the column.");
    }
    return static_cast<T>(value);
  }

  [[noreturn]] void fail_text(std::string_view cell, int64_t column) const {
    if (trimmed(cell).empty()) {
      fail_cell(cell, column, "empty",
                "Fill in a value or drop the record; a blank line counts as one.");
    }
    const bool may_be_header = num_records_ == 1 && !options_.header;
    fail_cell(
        cell, column, "not a number",
        fmt::format("Write numbers as 1, -2.5 or 3e-4, without quotes.{}",
                    may_be_header ? " If this line names the columns, set header = true." : ""));
  }

  [[noreturn]] void fail_cell(std::string_view cell, int64_t column, std::string_view what,
                              std::string_view fix) const {
    fail(static_cast<size_t>(cell.data() - line_.data()),
         fmt::format("record {}, column {}: '{}' is {}", num_records_, column, shown(cell), what),
         fix);
  }

  [[noreturn]] void fail(size_t offset_in_line, const std::string& what,
                         std::string_view fix) const {
    throw DataError(fmt::format("{}:{}:{}: {}.\n  {}", path_.string(), line_number_,
                                offset_in_line + 1, what, fix));
  }

  const fs::Path& path_;
  std::string_view rest_;
  const CsvOptions& options_;
  std::string_view line_;
  int64_t line_number_ = 0;
  int64_t num_records_ = 0;
  int64_t num_columns_ = 0;
  std::vector<T> cells_;
};

void check_options(const CsvOptions& options) {
  if (options.dtype != torch::kFloat32 && options.dtype != torch::kFloat64) {
    throw UsageError(fmt::format(
        "read_csv: dtype {} is not supported. Choose torch::kFloat32 or torch::kFloat64.",
        torch::toString(options.dtype)));
  }
  const bool is_alphanumeric = std::isalnum(static_cast<unsigned char>(options.delimiter)) != 0;
  constexpr std::string_view kReserved("+-.\"\r\n\0", 7);
  if (is_alphanumeric || kReserved.find(options.delimiter) != std::string_view::npos) {
    throw UsageError(
        fmt::format("read_csv: delimiter '{}' can be part of a cell or of a line end. "
                    "Choose one such as ',', ';', '|', a space or a tab.",
                    shown({&options.delimiter, 1})));
  }
}

}  // namespace

torch::Tensor read_csv(const fs::Path& path, const CsvOptions& options) {
  check_options(options);
  const std::string text = read_maybe_gzip(path, options.max_bytes);
  if (options.dtype == torch::kFloat64) {
    return CsvParser<double>(path, text, options).parse();
  }
  return CsvParser<float>(path, text, options).parse();
}

}  // namespace trainer::data
