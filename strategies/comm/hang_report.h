#pragma once
// Which rank the others wait for.

#include <cstddef>
#include <string>
#include <vector>

#include <trainer/core/flight_record.h>

namespace trainer {

struct RankStatus {
  std::string host;
  flight::Status status;
};

struct HangReport {
  size_t rank = 0;  ///< The first of those that the others wait for.
  std::string text;
};

/// Of ranks none of which has got on for so many seconds: those that have not come to the
/// collective that others wait in, or else what each is at.
HangReport report_hang(const std::vector<RankStatus>& ranks, double seconds);

}  // namespace trainer
