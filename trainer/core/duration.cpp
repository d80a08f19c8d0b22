#include <trainer/core/duration.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

using Unit = Duration::Unit;

struct UnitName {
  std::string_view name;
  Unit unit;
  double scale;
};

constexpr double kMaxCount = 9e18;  // an int64 can count so far
constexpr double kMinute = 60, kHour = 3600, kDay = 86400;
// The first name of a unit is the one that is written.
constexpr std::array<UnitName, 13> kUnits = {{{"ep", Unit::kEpochs, 1},
                                              {"epoch", Unit::kEpochs, 1},
                                              {"step", Unit::kSteps, 1},
                                              {"batch", Unit::kBatches, 1},
                                              {"ba", Unit::kBatches, 1},
                                              {"sample", Unit::kSamples, 1},
                                              {"sp", Unit::kSamples, 1},
                                              {"s", Unit::kSeconds, 1},
                                              {"sec", Unit::kSeconds, 1},
                                              {"m", Unit::kSeconds, kMinute},
                                              {"min", Unit::kSeconds, kMinute},
                                              {"h", Unit::kSeconds, kHour},
                                              {"d", Unit::kSeconds, kDay}}};

/// A number at the start of `text`, which loses it.
std::optional<double> take_number(std::string_view& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

/// "DD:HH:MM:SS".
std::optional<double> clock_seconds(std::string_view text) {
  constexpr std::array<double, 4> kScales = {kDay, kHour, kMinute, 1};
  double seconds = 0;
  for (size_t i = 0; i < kScales.size(); ++i) {
    if (i > 0) {
      if (text.empty() || text.front() != ':') {
        return std::nullopt;
      }
      text.remove_prefix(1);
    }
    const auto number = take_number(text);
    if (!number || *number < 0) {
      return std::nullopt;
    }
    seconds += *number * kScales[i];
  }
  return text.empty() ? std::optional(seconds) : std::nullopt;
}

/// One number with a unit, or several of time: "1h30min".
std::optional<Duration> parse(std::string_view text) {
  if (text.find(':') != std::string_view::npos) {
    const auto seconds = clock_seconds(text);
    return seconds ? std::optional(Duration(*seconds, Unit::kSeconds)) : std::nullopt;
  }
  std::optional<Duration> sum;
  while (!text.empty()) {
    const auto number = take_number(text);
    const size_t length = std::min(text.find_first_of("0123456789.+-"), text.size());
    const std::string_view name = text.substr(0, length);
    const auto* unit = std::find_if(kUnits.begin(), kUnits.end(),
                                    [&](const UnitName& known) { return known.name == name; });
    if (!number || *number < 0 || unit == kUnits.end()) {
      return std::nullopt;
    }
    if (sum && !(sum->is_time() && unit->unit == Unit::kSeconds)) {
      return std::nullopt;
    }
    if (unit->unit != Unit::kSeconds && (*number != std::floor(*number) || *number > kMaxCount)) {
      return std::nullopt;
    }
    sum = Duration(*number * unit->scale + (sum ? sum->count : 0), unit->unit);
    text.remove_prefix(length);
  }
  return sum;
}

}  // namespace

Duration::Duration(std::string_view text) {
  const auto parsed = parse(text);
  if (!parsed) {
    throw ConfigError(
        fmt::format("'{}' is no duration. Write a whole number with a unit: 10ep, 5000step, "
                    "200batch, 1e9sample; or a time: 90s, 0.5h, 30min, 2h, 1h30min, 1d, or "
                    "DD:HH:MM:SS.",
                    text));
  }
  *this = *parsed;
}

std::string Duration::text() const {
  const auto* name = std::find_if(kUnits.begin(), kUnits.end(),
                                  [&](const UnitName& known) { return known.unit == unit; });
  return config::detail::to_text(count).ends_with(".0") ? fmt::format("{:.0f}{}", count, name->name)
                                                        : fmt::format("{}{}", count, name->name);
}

namespace config {

void Codec<Duration>::read(const Node& n, const std::string& path, Diagnostics& d, Duration& out) {
  if (!n.is_scalar()) {
    d.add(n.mark, path, "is " + n.describe() + ", not a duration as 10ep, 5000step or 2h.");
    return;
  }
  try {
    out = Duration(n.text());
  } catch (const ConfigError& error) {
    d.add(n.mark, path, error.what());
  }
}

void Codec<std::variant<int64_t, double, Duration>>::read(const Node& n, const std::string& path,
                                                          Diagnostics& d, Type& out) {
  const std::string text = n.is_scalar() ? n.text() : "";
  const bool is_number =
      text.find_last_of("0123456789.") + 1 == text.size() && text.find(':') == std::string::npos;
  if (!is_number || text.empty()) {
    Codec<Duration>::read(n, path, d, out.emplace<Duration>());
  } else if (detail::looks_like_float(n)) {
    Codec<double>::read(n, path, d, out.emplace<double>());
  } else {
    Codec<int64_t>::read(n, path, d, out.emplace<int64_t>());
  }
}

}  // namespace config
}  // namespace trainer
