#pragma once
// Numbers in JSON, which has neither NaN nor infinity: those two are written as text.

#include <cmath>
#include <cstdint>
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

/// A whole number, where nlohmann would convert any, also one that no integer holds. Throws
/// nlohmann's type_error for anything else.
inline int64_t to_int64(const nlohmann::json& number) {
  if (!number.is_number_integer()) {
    throw nlohmann::json::type_error::create(
        302, "type must be integer, but is " + number.dump().substr(0, 40), &number);
  }
  return number.get<int64_t>();
}

/// Values by name.
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
