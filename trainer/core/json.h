#pragma once
// Numbers in JSON, which has neither NaN nor infinity: those two are written as text.

#include <cmath>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

namespace trainer::json {

/// A number, or "nan", "inf", "-inf".
inline nlohmann::json number(double value) {
  if (std::isfinite(value)) {
    return value;
  }
  return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
}

/// What number() wrote. Throws nlohmann's exceptions for anything else.
inline double to_double(const nlohmann::json& number) {
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    if (number == json::number(value)) {
      return value;
    }
  }
  return number.get<double>();
}

/// The same for values by name.
inline nlohmann::json numbers(const std::map<std::string, double>& values) {
  auto all = nlohmann::json::object();
  for (const auto& [name, value] : values) {
    all[name] = number(value);
  }
  return all;
}

inline std::map<std::string, double> to_doubles(const nlohmann::json& numbers) {
  std::map<std::string, double> values;
  for (const auto& [name, value] : numbers.items()) {
    values[name] = to_double(value);
  }
  return values;
}

}  // namespace trainer::json
