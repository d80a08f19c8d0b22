#include <trainer/core/config.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>

namespace trainer::config {
namespace {

/// Levenshtein distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) {
    row[j] = j;
  }
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1] ? 1 : 0)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string type_error(const Node& node, std::string_view wanted, std::string_view fix = "") {
  return fmt::format("is {}, not {}.{}{}", node.describe(), wanted, fix.empty() ? "" : " ", fix);
}

std::string without_underscores(std::string text) {
  std::erase(text, '_');
  return text;
}

/// What to write instead, for the spellings of numbers that YAML dialects read differently.
std::string integer_advice(const std::string& text) {
  const std::string digits = without_underscores(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc() && end == digits.data() + digits.size()) {
    return fmt::format("Write {}.", value);
  }
  return "Write digits only.";
}

bool is_plain_integer(const std::string& text) {
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  const std::string_view digits = std::string_view(text).substr(sign);
  const bool all_digits = !digits.empty() && std::all_of(digits.begin(), digits.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
  return all_digits && (digits.size() == 1 || digits[0] != '0');
}

bool parse_double(const std::string& text, double& out) {
  const size_t sign = !text.empty() && text[0] == '+' ? 1 : 0;
  if (text == ".nan" || text == ".NaN" || text == "nan") {
    out = std::numeric_limits<double>::quiet_NaN();
    return true;
  }
  if (text == ".inf" || text == "+.inf" || text == "inf" || text == "-.inf" || text == "-inf") {
    out = (text[0] == '-' ? -1 : 1) * std::numeric_limits<double>::infinity();
    return true;
  }
  if (sign == 1 && text.size() > 1 && (text[1] == '+' || text[1] == '-')) {
    return false;
  }
  const auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(out);
}

}  // namespace

namespace detail {

std::string to_text(double value) {
  if (std::isnan(value)) {
    return ".nan";
  }
  if (std::isinf(value)) {
    return value < 0 ? "-.inf" : ".inf";
  }
  std::string text = fmt::format("{}", value);  // shortest text that reads back as the same value
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

std::string to_text(int64_t value) { return fmt::format("{}", value); }

std::string to_text(const std::string& value) { return value; }

bool read_bool(const Node& node, const std::string& path, Diagnostics& diagnostics, bool& out) {
  if (node.is_scalar() && !node.quoted() && (node.text() == "true" || node.text() == "false")) {
    out = node.text() == "true";
    return true;
  }
  diagnostics.add(node.mark, path, type_error(node, "true or false", "Write true or false."));
  return false;
}

bool is_quoted_number(const Node& node) {
  double number = 0;
  return node.is_scalar() && node.quoted() && parse_double(node.text(), number);
}

bool read_int(const Node& node, const std::string& path, Diagnostics& diagnostics, int64_t min,
              int64_t max, int64_t& out) {
  if (!node.is_scalar() || node.quoted()) {
    diagnostics.add(
        node.mark, path,
        type_error(node, "an integer", is_quoted_number(node) ? "Remove the quotes." : ""));
    return false;
  }
  const std::string& text = node.text();
  double as_double = 0;
  if (is_plain_integer(text)) {
    const size_t sign = text[0] == '+' ? 1 : 0;
    const auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), out);
    if (error == std::errc() && out >= min && out <= max) {
      return true;
    }
    diagnostics.add(node.mark, path,
                    fmt::format("is {}: must lie between {} and {}.", text, min, max));
    return false;
  }
  // 1e6 is how people write a million steps; accepted when it is a whole number.
  const bool scientific = text.find_first_of("eE") != std::string::npos;
  if (scientific && parse_double(text, as_double) && as_double == std::floor(as_double) &&
      std::abs(as_double) < 9.0e15 && as_double >= static_cast<double>(min) &&
      as_double <= static_cast<double>(max)) {
    out = static_cast<int64_t>(as_double);
    return true;
  }
  diagnostics.add(node.mark, path, type_error(node, "an integer", integer_advice(text)));
  return false;
}

bool read_double(const Node& node, const std::string& path, Diagnostics& diagnostics, double& out) {
  if (node.is_scalar() && !node.quoted() && parse_double(node.text(), out)) {
    return true;
  }
  diagnostics.add(
      node.mark, path,
      type_error(node, "a number",
                 is_quoted_number(node) ? "Remove the quotes." : "Write it as 0.001 or 1e-3."));
  return false;
}

bool read_string(const Node& node, const std::string& path, Diagnostics& diagnostics,
                 std::string& out) {
  if (node.is_scalar()) {
    out = node.text();
    return true;
  }
  diagnostics.add(node.mark, path,
                  type_error(node, "text", node.is_null() ? "Write \"\" for an empty text." : ""));
  return false;
}

bool expect_kind(const Node& node, Node::Kind kind, const std::string& path,
                 Diagnostics& diagnostics) {
  if (node.kind() == kind) {
    return true;
  }
  diagnostics.add(node.mark, path, type_error(node, kind == Node::Kind::kMap ? "a map" : "a list"));
  return false;
}

bool looks_like_float(const Node& node) {
  return node.is_scalar() && node.text().find_first_of(".eE") != std::string::npos;
}

void check_keys(const Node& node, const std::string& path, const std::vector<std::string>& known,
                Diagnostics& diagnostics,
                const std::function<std::string(const std::string&)>& hint) {
  for (const auto& entry : node.entries()) {
    if (std::find(known.begin(), known.end(), entry.key) == known.end()) {
      const auto what_to_do = hint ? hint(entry.key) : std::string();
      diagnostics.add(
          entry.key_mark, join(path, entry.key),
          "unknown key." + (what_to_do.empty() ? did_you_mean(entry.key, known) : what_to_do));
    }
  }
}

Node string_node(const std::string& value) {
  // Quoted where the plain text would be read as something else.
  double number = 0;
  const bool special = value.empty() || value == "~" || value == "null" || value == "true" ||
                       value == "false" || parse_double(value, number) ||
                       value.find('\n') != std::string::npos;
  return special ? Node::string(value) : Node::scalar(value);
}

}  // namespace detail

void Diagnostics::add(const Mark& mark, const std::string& path, const std::string& what) {
  lines_.push_back(
      {mark, fmt::format("{}: {}{}{}", mark.str(), path, path.empty() ? "" : ": ", what)});
}

void Diagnostics::add(const ConfigError& error) {
  Line line;  // GCC 12 takes a temporary's mark for uninitialised
  line.text = error.what();
  lines_.push_back(std::move(line));
}

void Diagnostics::throw_if_any() const {
  if (lines_.empty()) {
    return;
  }
  auto lines = lines_;
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) {
    return std::pair(a.mark.line, a.mark.column) < std::pair(b.mark.line, b.mark.column);
  });
  lines.erase(std::unique(lines.begin(), lines.end(),
                          [](const Line& a, const Line& b) { return a.text == b.text; }),
              lines.end());
  std::string all;
  for (const auto& line : lines) {
    all += (all.empty() ? "" : "\n") + line.text;
  }
  throw ConfigError(all);
}

std::string did_you_mean(std::string_view wanted, const std::vector<std::string>& known) {
  size_t best = std::max<size_t>(2, wanted.size() / 3) + 1;
  std::string_view name;
  for (const auto& candidate : known) {
    if (const size_t distance = edit_distance(wanted, candidate); distance < best) {
      best = distance;
      name = candidate;
    }
  }
  return name.empty() ? "" : fmt::format(" Did you mean '{}'?", name);
}

}  // namespace trainer::config
