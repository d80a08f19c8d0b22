#pragma once
// Numbers in JSON, which has neither NaN nor infinity: those two are written as text.

#include <cmath>
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

}  // namespace trainer::json
