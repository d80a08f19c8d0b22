#include <trainer/core/duration.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;
using Unit = Duration::Unit;

TEST(Duration, IsReadInEveryUnit) {
  const std::pair<const char*, Duration> cases[] = {
      {"10ep", {10, Unit::kEpochs}},
      {"2epoch", {2, Unit::kEpochs}},
      {"5000step", {5000, Unit::kSteps}},
      {"200batch", {200, Unit::kBatches}},
      {"3ba", {3, Unit::kBatches}},
      {"1e9sample", {1e9, Unit::kSamples}},
      {"7sp", {7, Unit::kSamples}},
      {"90s", {90, Unit::kSeconds}},
      {"1.5h", {5400, Unit::kSeconds}},
      {"30min", {1800, Unit::kSeconds}},
      {"1h30min", {5400, Unit::kSeconds}},
      {"1d2h3m4s", {93784, Unit::kSeconds}},
      {"00:12:00:30", {43230, Unit::kSeconds}},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(Duration(text), expected) << text;
  }
}

TEST(Duration, IsWrittenAsItIsRead) {
  for (const char* text : {"10ep", "5000step", "200batch", "1000000000sample", "5400s", "0.5s"}) {
    EXPECT_EQ(Duration(text).text(), text);
  }
  EXPECT_EQ(Duration("1h30min").text(), "5400s");
}

TEST(Duration, RefusesWhatIsNone) {
  for (const char* text : {"",          "10",        "ep",          "-1ep",   "10 ep",   "10eps",
                           "1h5step",   "5step1h",   "1h30",        "nan s",  "infs",    "1:2",
                           "1:2:3:4:5", "1:2:3:",    "00:-1:00:00", "1e999s", "0.5step", "1.5ep",
                           "2.5batch",  "0.5sample", "1e19sample"}) {
    EXPECT_EQ(thrown<ConfigError>([&] { (void)Duration(text); }),
              "'" + std::string(text) +
                  "' is no duration. Write a whole number with a unit: 10ep, 5000step, 200batch, "
                  "1e9sample; or a time: 90s, 0.5h, 30min, 2h, 1h30min, 1d, or DD:HH:MM:SS.");
  }
}

TEST(Duration, StandsBesideCountsAndFractions) {
  using Any = std::variant<int64_t, double, Duration>;
  const auto read = [](const std::string& text) {
    config::Diagnostics diagnostics;
    const auto value = config::read<Any>(config::Node::scalar(text), "x", diagnostics);
    diagnostics.throw_if_any();
    return value;
  };
  EXPECT_EQ(read("4"), Any(int64_t{4}));
  EXPECT_EQ(read("1"), Any(int64_t{1}));
  EXPECT_EQ(read("1.0"), Any(1.0));
  EXPECT_EQ(read("25e-2"), Any(0.25));
  EXPECT_EQ(read("1e9sample"), Any(Duration("1e9sample")));
  EXPECT_EQ(read("1d"), Any(Duration("1d")));
  EXPECT_EQ(read("00:00:10:00"), Any(Duration("10min")));
  EXPECT_THROW(read("soon"), ConfigError);
  EXPECT_THROW(read(""), ConfigError);
  for (const char* text : {"4", "0.25", "90s"}) {
    EXPECT_EQ(config::write(read(text)).text(), text);
  }
}

}  // namespace
}  // namespace trainer
