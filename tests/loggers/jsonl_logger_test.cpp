#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <tests/loggers/logger_fixture.h>
#include <vector>

#include <gtest/gtest.h>

#include <loggers/jsonl_logger.h>
#include <trainer/core/error.h>

namespace trainer::test {
namespace {

class JSONLLoggerTest : public LoggerTest {
 protected:
  const fs::Path path_ = folder_ / "metrics.jsonl";
};

TEST_F(JSONLLoggerTest, PythonReadsBackEveryValue) {
  const auto rows = random_rows(1000);
  JSONLLogger logger;
  logger.setup(folder_.path());
  log_rows(logger, rows);
  logger.save();
  expect_same_rows(python_rows("jsonl", path_), rows);
}

TEST_F(JSONLLoggerTest, WritesOneObjectALine) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  JSONLLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"z", 0.1}, {"epoch", 3}, {"a", 1}}, 49);
  logger.log_metrics({{"epoch", std::nan("")}}, 50);
  logger.log_metrics({{"say \"hi\"\n", -std::nan("")},
                      {"i", kInfinity},
                      {"\xC3\xA9", -kInfinity},
                      {"bad \xFF", 1e300}},
                     51);
  EXPECT_EQ(read_file(path_), "");
  logger.finalize("success");
  EXPECT_EQ(read_file(path_),
            R"({"schema":1,"epoch":3,"step":49,"metrics":{"z":0.1,"a":1}})"
            "\n"
            R"({"schema":1,"epoch":"nan","step":50,"metrics":{}})"
            "\n"
            R"({"schema":1,"epoch":null,"step":51,"metrics":{"say \"hi\"\n":"nan","i":"inf",)"
            "\"\xC3\xA9\":\"-inf\",\"bad \xEF\xBF\xBD\":1e+300}}\n");
}

TEST_F(JSONLLoggerTest, ResumedRunMakesTheSameBytes) {
  const auto rows = random_rows(200);
  JSONLLogger whole;
  whole.setup(folder_ / "whole");
  log_rows(whole, rows);
  whole.save();
  const std::string expected = read_file(folder_ / "whole" / "metrics.jsonl");
  for (size_t checkpoint = 0; checkpoint < rows.size(); checkpoint += 23) {
    const fs::Path folder = folder_ / std::to_string(checkpoint);
    JSONLLogger killed;
    killed.setup(folder);
    log_rows(killed, rows, 0, checkpoint);
    const auto state = nlohmann::json::parse(killed.state_dict().dump());
    EXPECT_EQ(state, nlohmann::json({{"rows", checkpoint}}));
    log_rows(killed, rows, checkpoint, std::min(checkpoint + 30, rows.size()));
    killed.save();

    JSONLLogger resumed;
    resumed.setup(folder);
    resumed.load_state_dict(state);
    EXPECT_EQ(resumed.state_dict(), state);
    log_rows(resumed, rows, checkpoint, rows.size());
    resumed.save();
    EXPECT_EQ(read_file(folder / "metrics.jsonl"), expected) << "checkpoint after " << checkpoint;
  }
}

TEST_F(JSONLLoggerTest, KilledAtAnyByteTheRunContinues) {
  const auto rows = random_rows(5);
  JSONLLogger whole;
  whole.setup(folder_.path());
  log_rows(whole, rows);
  whole.save();
  const std::string text = read_file(path_);
  for (size_t size = 0; size <= text.size(); ++size) {
    write_file(path_, text.substr(0, size));
    const auto complete = static_cast<size_t>(
        std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(size), '\n'));
    JSONLLogger logger;
    logger.setup(folder_.path());
    ASSERT_EQ(logger.state_dict(), nlohmann::json({{"rows", complete}}))
        << "killed after byte " << size;
    log_rows(logger, rows, complete, rows.size());
    logger.save();
    ASSERT_EQ(read_file(path_), text) << "killed after byte " << size;
  }
}

TEST_F(JSONLLoggerTest, FolderThatCannotBeWrittenIsAnIoError) {
  std::filesystem::create_directory(path_);
  JSONLLogger logger;
  EXPECT_EQ(thrown<IoError>([&] { logger.setup(folder_.path()); }),
            path_.string() + ": cannot write: Is a directory.\n  This is a folder; give a file.");
}

}  // namespace
}  // namespace trainer::test
