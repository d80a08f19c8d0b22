#pragma once
// What the tests of the loggers share: random rows, and Python, which reads the files back as users
// of Python would.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>
#include <trainer/core/filesystem.h>
#include <trainer/logger.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer::test {

/// What one call of log_metrics() got.
struct Row {
  Metrics metrics;
  int64_t step = 0;
};

/// Any double, as its bits come: subnormal, huge, NaN of any kind; often a plain or special one.
inline double random_value(std::mt19937_64& random) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr std::array kSpecial = {0.0,
                                   -0.0,
                                   1.0,
                                   0.1,
                                   -1e-7,
                                   1e16,
                                   kNan,
                                   -kNan,
                                   kInfinity,
                                   -kInfinity,
                                   std::numeric_limits<double>::max(),
                                   std::numeric_limits<double>::denorm_min()};
  if (random() % 2 == 0) {
    return kSpecial[random() % kSpecial.size()];
  }
  const uint64_t bits = random();
  double value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// Rows as a run has them: some metrics in most rows, others rare or late, names of all kinds.
inline std::vector<Row> random_rows(size_t count) {
  const std::vector<std::string> names = {"train_loss",           "lr",         "val/acc", "a,b",
                                          "say \"hi\"",           "two\nlines", "\"",      " ",
                                          "\xC3\xA9\xE2\x82\xAC", "\\n\t\r"};
  std::mt19937_64 random(count);
  std::vector<Row> rows;
  for (size_t i = 0; i < count; ++i) {
    Row row;
    row.step = static_cast<int64_t>(i * 50);
    for (size_t k = 0; k < names.size(); ++k) {
      const bool started = i * names.size() >= k * count / 2;
      if (started && random() % (k + 1) < 2) {
        row.metrics.emplace_back(names[k], random_value(random));
      }
    }
    row.metrics.emplace_back("epoch", std::floor(static_cast<double>(i) / 100));
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Fails unless both hold the same values by name and step; all NaNs are one, so are all zeros.
inline void expect_same_rows(std::vector<Row> read, std::vector<Row> written) {
  ASSERT_EQ(read.size(), written.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].step, written[i].step);
    std::sort(read[i].metrics.begin(), read[i].metrics.end());
    std::sort(written[i].metrics.begin(), written[i].metrics.end());
    ASSERT_EQ(read[i].metrics.size(), written[i].metrics.size()) << "row " << i;
    for (size_t k = 0; k < read[i].metrics.size(); ++k) {
      const auto& [name, value] = read[i].metrics[k];
      const auto& [expected_name, expected] = written[i].metrics[k];
      EXPECT_EQ(name, expected_name) << "row " << i;
      EXPECT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected)))
          << "row " << i << ", " << name << ": " << value << " instead of " << expected;
    }
  }
}

class LoggerTest : public testing::Test {
 protected:
  /// What `metrics_read.py FORMAT PATH` prints: a list of what it read.
  static nlohmann::json python(const std::string& format, const fs::Path& path) {
    return nlohmann::json::parse(run_python("loggers/metrics_read.py", {format, path.string()}));
  }

  /// The same as rows, from [{"step": S, "metrics": [[name, hexadecimal number], ...]}, ...].
  static std::vector<Row> python_rows(const std::string& format, const fs::Path& path) {
    std::vector<Row> rows;
    for (const auto& read : python(format, path)) {
      Row row;
      row.step = read.at("step").get<int64_t>();
      for (const auto& [name, number] :
           read.at("metrics").get<std::vector<std::array<std::string, 2>>>()) {
        row.metrics.emplace_back(name, std::strtod(number.c_str(), nullptr));
      }
      rows.push_back(std::move(row));
    }
    return rows;
  }

  const TempDir folder_;
};

/// Logs rows [begin, end).
inline void log_rows(Logger& logger, const std::vector<Row>& rows, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    logger.log_metrics(rows[i].metrics, rows[i].step);
  }
}

inline void log_rows(Logger& logger, const std::vector<Row>& rows) {
  log_rows(logger, rows, 0, rows.size());
}

}  // namespace trainer::test
