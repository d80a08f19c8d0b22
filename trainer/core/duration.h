#pragma once
// How long something lasts, in the unit that is meant: "10ep" epochs, "5000step" optimizer steps,
// "200batch" batches, "1e9sample" samples, or time: "90s", "30min", "2h", "1d", "1h30min", and
// Lightning's "DD:HH:MM:SS". The one grammar wherever a setting is a duration.

#include <string>
#include <string_view>

#include <trainer/core/config.h>

namespace trainer {

struct Duration {
  enum class Unit { kEpochs, kSteps, kBatches, kSamples, kSeconds };

  double count = 0;
  Unit unit = Unit::kSteps;

  Duration() = default;
  Duration(double c, Unit u) : count(c), unit(u) {}
  /// Throws ConfigError for a text that is no duration, or one below 0.
  Duration(std::string_view text);  // NOLINT: implicit, so that settings in code read as in YAML
  Duration(const char* text) : Duration(std::string_view(text)) {}  // NOLINT: as above

  bool is_time() const { return unit == Unit::kSeconds; }
  /// As it is written: "5000step"; time in seconds.
  std::string text() const;
  bool operator==(const Duration&) const = default;
};

namespace config {

template <>
struct Codec<Duration> {
  static std::string type() { return "duration"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Duration& out);
  static Node write(const Duration& value) { return Node::scalar(value.text()); }
};

/// A count, a fraction or a duration, told apart by how it is written: 4, 0.25, 30min.
template <>
struct Codec<std::variant<int64_t, double, Duration>> {
  using Type = std::variant<int64_t, double, Duration>;
  static std::string type() { return "int, float or duration"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Type& out);
  static Node write(const Type& value) {
    return std::visit([](const auto& v) { return config::write(v); }, value);
  }
};

}  // namespace config
}  // namespace trainer
