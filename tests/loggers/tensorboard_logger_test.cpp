#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <regex>
#include <set>
#include <string>
#include <tests/loggers/logger_fixture.h>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include <loggers/tensorboard_logger.h>
#include <trainer/core/error.h>

namespace trainer::test {
namespace {

using Points = std::vector<std::pair<int64_t, double>>;  // step and value

class TensorBoardLoggerTest : public LoggerTest {
 protected:
  /// The event files in the order in which TensorBoard reads them.
  std::vector<fs::Path> event_files() const {
    std::set<fs::Path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      files.insert(entry.path());
    }
    return {files.begin(), files.end()};
  }

  /// Logs a run's steps [begin, end): "loss" is `value` each step.
  void log_steps(TensorBoardLogger& logger, int64_t begin, int64_t end, double value) {
    for (int64_t step = begin; step < end; ++step) {
      logger.log_metrics({{"loss", value}, {"epoch", std::floor(static_cast<double>(step) / 10)}},
                         step);
    }
  }

  /// What TensorBoard shows of `tag`.
  Points shown(const std::string& tag) const {
    Points points;
    const auto tags = python("accumulate", folder_.path());
    for (const auto& point : tags.at(tag)) {
      points.emplace_back(point[0].get<int64_t>(),
                          std::strtod(point[1].get<std::string>().c_str(), nullptr));
    }
    return points;
  }
  static Points points(int64_t begin, int64_t end, double value) {
    Points made;
    for (int64_t step = begin; step < end; ++step) {
      made.emplace_back(step, value);
    }
    return made;
  }
};

TEST_F(TensorBoardLoggerTest, TensorBoardReadsBackEveryValueAsFloat32) {
  auto rows = random_rows(1000);
  TensorBoardLogger logger;
  logger.setup(folder_.path());
  log_rows(logger, rows);
  logger.finalize("success");
  for (Row& row : rows) {
    for (auto& [name, value] : row.metrics) {
      value = static_cast<float>(value);
    }
  }
  ASSERT_EQ(event_files().size(), 1);
  expect_same_rows(python_rows("events", event_files()[0]), rows);
}

TEST_F(TensorBoardLoggerTest, FileIsMadeByTheFirstWriteAndNamedAsTensorBoardsOwn) {
  using std::chrono::system_clock;
  TensorBoardLogger logger;
  logger.setup(folder_.path());
  logger.save();
  EXPECT_TRUE(event_files().empty());
  const auto before = system_clock::to_time_t(system_clock::now());
  logger.log_metrics({{"loss", 1}}, 0);
  const auto after = system_clock::to_time_t(system_clock::now());
  ASSERT_EQ(event_files().size(), 1);
  const std::string name = event_files()[0].filename().string();
  std::smatch parts;
  ASSERT_TRUE(std::regex_match(
      name, parts, std::regex(R"(events\.out\.tfevents\.(\d{10})\.(.+)\.(\d+)\.(\d+))")))
      << name;
  EXPECT_GE(std::stoll(parts[1]), before);
  EXPECT_LE(std::stoll(parts[1]), after);
  std::array<char, 256> host{};
  ASSERT_EQ(::gethostname(host.data(), host.size()), 0);
  EXPECT_EQ(parts[2], host.data());
  EXPECT_EQ(parts[3], std::to_string(::getpid()));
}

TEST_F(TensorBoardLoggerTest, FileStartsWithItsVersionAndASession) {
  TensorBoardLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"loss", 1}}, 7);
  logger.save();
  EXPECT_EQ(python("sessions", event_files()[0]),
            nlohmann::json::parse(R"([["file_version",0],["session_log",0],["summary",7]])"));
}

TEST_F(TensorBoardLoggerTest, ResumedRunReplacesThePointsAfterTheCheckpoint) {
  nlohmann::json state;
  {
    TensorBoardLogger killed;
    killed.setup(folder_.path());
    EXPECT_EQ(killed.state_dict(), nlohmann::json::parse(R"({"last_step":-1})"));
    log_steps(killed, 0, 60, 1);
    state = nlohmann::json::parse(killed.state_dict().dump());
    EXPECT_EQ(state, nlohmann::json::parse(R"({"last_step":59})"));
    log_steps(killed, 60, 100, 1);
    killed.save();
  }
  EXPECT_EQ(shown("loss"), points(0, 100, 1));

  TensorBoardLogger resumed;
  resumed.setup(folder_.path());
  resumed.load_state_dict(state);
  EXPECT_EQ(resumed.state_dict(), state);
  log_steps(resumed, 60, 80, 2);
  resumed.save();
  auto expected = points(0, 60, 1);
  const auto redone = points(60, 80, 2);
  expected.insert(expected.end(), redone.begin(), redone.end());
  EXPECT_EQ(shown("loss"), expected);
  ASSERT_EQ(event_files().size(), 2);
  const auto sessions = python("sessions", event_files()[1]);
  EXPECT_EQ(sessions[0], nlohmann::json::parse(R"(["file_version",0])"));
  EXPECT_EQ(sessions[1], nlohmann::json::parse(R"(["session_log",60])"));

  TensorBoardLogger again;  // from before the first row
  again.setup(folder_.path());
  again.load_state_dict({{"last_step", -1}});
  log_steps(again, 0, 5, 3);
  again.save();
  EXPECT_EQ(shown("loss"), points(0, 5, 3));
  EXPECT_EQ(shown("epoch"), points(0, 5, 0));
}

TEST_F(TensorBoardLoggerTest, GoingBackWithinARunReplacesThePointsToo) {
  TensorBoardLogger logger;
  logger.setup(folder_.path());
  log_steps(logger, 0, 10, 1);
  logger.load_state_dict({{"last_step", 3}});
  log_steps(logger, 4, 6, 2);
  logger.save();
  auto expected = points(0, 4, 1);
  expected.insert(expected.end(), {{4, 2}, {5, 2}});
  EXPECT_EQ(shown("loss"), expected);
}

TEST_F(TensorBoardLoggerTest, AnotherLoggerInTheFolderAddsItsPoints) {
  TensorBoardLogger first;
  first.setup(folder_.path());
  log_steps(first, 0, 10, 1);
  first.save();
  TensorBoardLogger second;
  second.setup(folder_.path());
  second.log_metrics({{"test_loss", 5}}, 0);
  second.save();
  EXPECT_EQ(shown("loss"), points(0, 10, 1));
  EXPECT_EQ(shown("test_loss"), points(0, 1, 5));
}

TEST_F(TensorBoardLoggerTest, LaterFileIsReadLaterWhateverTheClockSays) {
  const fs::Path ahead = folder_ / "events.out.tfevents.9000000000.z.99999.9";
  {
    TensorBoardLogger first;
    first.setup(folder_.path());
    log_steps(first, 0, 10, 1);
    first.save();
    std::filesystem::rename(event_files()[0], ahead);
  }
  write_file(folder_ / "events.out.tfevents.9500000000.killed.1.0",
             "");  // killed before its first flush
  TensorBoardLogger resumed;
  resumed.setup(folder_.path());
  resumed.load_state_dict({{"last_step", 4}});
  log_steps(resumed, 5, 8, 2);
  resumed.save();
  ASSERT_EQ(event_files().size(), 3);
  EXPECT_EQ(event_files()[0], ahead);
  auto expected = points(0, 5, 1);
  expected.insert(expected.end(), {{5, 2}, {6, 2}, {7, 2}});
  EXPECT_EQ(shown("loss"), expected);
}

TEST_F(TensorBoardLoggerTest, FileOfARunKilledBeforeItsFirstFlushCountsAsNoStart) {
  write_file(folder_ / "events.out.tfevents.1000000000.killed.1.0", "");
  TensorBoardLogger first;
  first.setup(folder_.path());
  log_steps(first, 0, 10, 1);
  first.save();
  TensorBoardLogger resumed;
  resumed.setup(folder_.path());
  resumed.load_state_dict({{"last_step", 4}});
  log_steps(resumed, 5, 6, 2);
  resumed.save();
  auto expected = points(0, 5, 1);
  expected.emplace_back(5, 2);
  EXPECT_EQ(shown("loss"), expected);
}

TEST_F(TensorBoardLoggerTest, KilledAtAnyByteTheRunContinues) {
  TensorBoardLogger killed;
  killed.setup(folder_.path());
  log_steps(killed, 0, 3, 1);
  killed.save();
  const fs::Path file = event_files()[0];
  const std::string bytes = read_file(file);
  for (size_t lost = 1; lost <= 50; ++lost) {  // the last record and a part of the one before
    const fs::Path folder = folder_ / std::to_string(lost);
    std::filesystem::create_directory(folder);
    write_file(folder / file.filename(), bytes.substr(0, bytes.size() - lost));
    TensorBoardLogger resumed;
    resumed.setup(folder);
    resumed.load_state_dict({{"last_step", 0}});
    log_steps(resumed, 1, 4, 2);
    resumed.save();
  }
  const std::string one = "\"0x1.0000000000000p+0\"";
  const std::string two = "\"0x1.0000000000000p+1\"";
  const auto expected =
      nlohmann::json::parse("[[0," + one + "],[1," + two + "],[2," + two + "],[3," + two + "]]");
  const auto runs = python("accumulate_each", folder_.path());
  EXPECT_EQ(runs.size(), 50);
  for (const auto& [lost, tags] : runs.items()) {
    EXPECT_EQ(tags.at("loss"), expected) << lost << " bytes lost";
  }
}

TEST_F(TensorBoardLoggerTest, FolderThatCannotBeWrittenIsAnIoError) {
  write_file(folder_ / "file", "");
  TensorBoardLogger logger;
  EXPECT_EQ(thrown<IoError>([&] { logger.setup(folder_ / "file"); }),
            (folder_ / "file").string() +
                ": cannot create this folder: Not a directory.\n  A part of the path is a file, "
                "not a folder.");
  logger.setup(folder_ / "gone");
  std::filesystem::remove(folder_ / "gone");
  const std::string message = thrown<IoError>([&] { logger.log_metrics({{"loss", 1}}, 0); });
  EXPECT_TRUE(message.starts_with((folder_ / "gone" / "events.out.tfevents.").string())) << message;
  EXPECT_TRUE(
      message.ends_with(": cannot write: No such file or directory.\n  Check the path; relative "
                        "paths start at the current folder."))
      << message;
}

TEST_F(TensorBoardLoggerTest, StateOfAnotherLoggerIsRefused) {
  TensorBoardLogger logger;
  logger.setup(folder_.path());
  for (const char* text : {"null", "{\"rows\":3}", "{\"last_step\":-2}", "{\"last_step\":0.5}",
                           "{\"last_step\":9223372036854775807}"}) {
    EXPECT_EQ(thrown<CheckpointError>([&] { logger.load_state_dict(nlohmann::json::parse(text)); }),
              folder_.path().string() + ": the checkpoint's state of TensorBoardLogger is " + text +
                  ", not {\"last_step\": S}. Resume with the loggers of the run that wrote the "
                  "checkpoint.");
  }
}

}  // namespace
}  // namespace trainer::test
