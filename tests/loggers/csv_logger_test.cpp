#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <loggers/csv_logger.h>
#include <trainer/core/error.h>

#include <tests/loggers/logger_fixture.h>
#include <tests/support/file_size_limit.h>

namespace trainer::test {
namespace {

class CSVLoggerTest : public LoggerTest {
 protected:
  /// The file of a run that logs these rows and is never stopped.
  std::string uninterrupted(const std::vector<Row>& rows) const {
    const fs::Path folder = folder_ / "uninterrupted";
    CSVLogger logger;
    logger.setup(folder);
    log_rows(logger, rows);
    logger.finalize("success");
    return read_file(folder / "metrics.csv");
  }

  const fs::Path path_ = folder_ / "metrics.csv";
};

TEST_F(CSVLoggerTest, PythonReadsBackEveryValue) {
  const auto rows = random_rows(1000);
  CSVLogger logger;
  logger.setup(folder_.path());
  log_rows(logger, rows);
  logger.save();
  expect_same_rows(python_rows("csv", path_), rows);
}

TEST_F(CSVLoggerTest, WritesLightningsColumns) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"train_loss", 0.1}, {"epoch", 0}}, 49);
  logger.log_metrics({{"epoch", 1}, {"train_loss", 1}, {"lr", 1e-7}}, 99);
  logger.log_metrics({{"val_loss", -std::nan("")}, {"lr", -kInfinity}, {"step", 7}}, 100);
  logger.log_metrics({{"val_loss", kInfinity}, {"epoch", 123456789}}, int64_t{1} << 62);
  logger.finalize("success");
  EXPECT_EQ(read_file(path_),
            "epoch,step,train_loss,lr,val_loss\n"
            "0,49,0.1,,\n"
            "1,99,1,1e-07,\n"
            ",100,,-inf,nan\n"
            "123456789,4611686018427387904,,,inf\n");
}

TEST_F(CSVLoggerTest, NamesAreQuotedWhereTheyMustBe) {
  const Metrics metrics = {{"a,b", 1}, {"say \"hi\"", 2}, {"two\nlines", 3},
                           {"\r", 4},  {"", 5},           {"a b;c", 6}};
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics(metrics, 0);
  logger.save();
  EXPECT_EQ(read_file(path_),
            "epoch,step,\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\",\"\r\",,a b;c\n,0,1,2,3,4,5,6\n");
  CSVLogger next;
  next.setup(folder_.path());
  next.log_metrics(metrics, 1);
  next.save();
  expect_same_rows(python_rows("csv", path_), {{metrics, 0}, {metrics, 1}});
}

TEST_F(CSVLoggerTest, RowsReachTheFileInBlocksAndOnSave) {
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"loss", 1}}, 0);
  logger.log_metrics({{"loss", 2}}, 1);
  EXPECT_EQ(read_file(path_), "epoch,step,loss\n");
  logger.save();
  EXPECT_EQ(read_file(path_), "epoch,step,loss\n,0,1\n,1,2\n");
  for (int64_t step = 2; step < 20000; ++step) {
    logger.log_metrics({{"loss", 1}}, step);
  }
  EXPECT_GT(std::filesystem::file_size(path_), 64 << 10);
}

TEST_F(CSVLoggerTest, LateColumnKeepsEveryRowAndLeavesNoOtherFile) {
  CSVLogger logger;
  logger.setup(folder_.path());
  std::string expected = "epoch,step,a,late\n";
  for (int64_t step = 0; step < 20000; ++step) {  // more than one block
    logger.log_metrics({{"a", static_cast<double>(step)}}, step);
    expected += "," + std::to_string(step) + "," + std::to_string(step) + ",\n";
  }
  logger.log_metrics({{"late", 0.5}}, 20000);
  logger.save();
  EXPECT_EQ(read_file(path_), expected + ",20000,,0.5\n");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(CSVLoggerTest, ResumedRunMakesTheSameBytes) {
  const auto rows = random_rows(300);
  const std::string expected = uninterrupted(rows);
  for (size_t checkpoint = 0; checkpoint < rows.size(); checkpoint += 37) {
    const fs::Path folder = folder_ / std::to_string(checkpoint);
    nlohmann::json state;
    {
      CSVLogger killed;
      killed.setup(folder);
      log_rows(killed, rows, 0, checkpoint);
      killed.save();
      state = nlohmann::json::parse(killed.state_dict().dump());
      log_rows(killed, rows, checkpoint, std::min(checkpoint + 30, rows.size()));
      if (checkpoint % 2 == 0) {
        killed.save();
      }
    }
    EXPECT_EQ(state.at("rows"), checkpoint);
    CSVLogger resumed;
    resumed.setup(folder);
    resumed.load_state_dict(state);
    EXPECT_EQ(resumed.state_dict(), state);
    log_rows(resumed, rows, checkpoint, rows.size());
    resumed.finalize("success");
    EXPECT_EQ(read_file(folder / "metrics.csv"), expected) << "checkpoint after " << checkpoint;
  }
}

TEST_F(CSVLoggerTest, LoadStateDictCutsRowsThatAreStillInTheBuffer) {
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"loss", 1}}, 0);
  const auto state = logger.state_dict();
  logger.log_metrics({{"loss", 2}}, 1);
  logger.load_state_dict(state);
  logger.log_metrics({{"loss", 3}}, 1);
  logger.save();
  EXPECT_EQ(read_file(path_), "epoch,step,loss\n,0,1\n,1,3\n");
}

TEST_F(CSVLoggerTest, FileEmptiedDuringTheRunGetsItsHeaderWithTheNextColumn) {
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"a", 1}}, 0);
  logger.save();
  write_file(path_, "");
  logger.log_metrics({{"b", 2}}, 1);
  logger.save();
  EXPECT_EQ(read_file(path_), "epoch,step,a,b\n,1,,2\n");
}

TEST_F(CSVLoggerTest, KilledAtAnyByteOfARowTheRunContinues) {
  const auto rows = random_rows(40);
  const std::string whole = uninterrupted(rows);
  const size_t header = whole.find("\n0,0,") + 1;
  const std::string text = whole.substr(header);
  for (size_t size = text.size() - 400; size <= text.size(); ++size) {
    write_file(path_, whole.substr(0, header + size));
    const auto complete = static_cast<size_t>(
        std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(size), '\n'));
    CSVLogger logger;
    logger.setup(folder_.path());
    ASSERT_EQ(logger.state_dict().at("rows"), complete) << "killed after byte " << size;
    log_rows(logger, rows, complete, rows.size());
    logger.save();
    ASSERT_EQ(read_file(path_), whole) << "killed after byte " << size;
  }
}

TEST_F(CSVLoggerTest, KilledWhileAColumnIsAddedTheRunContinues) {
  CSVLogger killed;
  killed.setup(folder_.path());
  killed.log_metrics({{"a", 1}}, 0);
  killed.save();
  write_file(folder_ / "metrics.csv.tmp", "epoch,step,a,b\n,0");
  CSVLogger logger;
  logger.setup(folder_.path());
  logger.log_metrics({{"b", 2}}, 1);
  logger.save();
  EXPECT_EQ(read_file(path_), "epoch,step,a,b\n,0,1,\n,1,,2\n");
}

TEST_F(CSVLoggerTest, EmptyFileStartsAnew) {
  write_file(path_, "");  // killed before the first row
  CSVLogger logger;
  logger.setup(folder_.path());
  EXPECT_EQ(logger.state_dict(), nlohmann::json({{"rows", 0}, {"columns", 0}}));
  logger.log_metrics({{"b", 2}}, 1);
  logger.save();
  EXPECT_EQ(read_file(path_), "epoch,step,b\n,1,2\n");
}

TEST_F(CSVLoggerTest, FullDiskLosesAndRepeatsNothing) {
  const auto rows = random_rows(1000);
  const std::string expected = uninterrupted(rows);
  CSVLogger logger;
  logger.setup(folder_.path());
  log_rows(logger, rows, 0, 990);
  logger.save();
  const auto size = std::filesystem::file_size(path_);

  {
    const FileSizeLimit full(size + 100);
    log_rows(logger, rows, 990, rows.size());
    for (int attempt = 0; attempt < 2; ++attempt) {
      EXPECT_EQ(thrown<IoError>([&] { logger.save(); }),
                path_.string() + ": cannot write: File too large.");
      EXPECT_EQ(std::filesystem::file_size(path_), size);
    }
    EXPECT_THROW(logger.log_metrics({{"late column", 1}}, 0), IoError);
  }
  logger.finalize("failed");
  EXPECT_EQ(read_file(path_), expected);
}

TEST_F(CSVLoggerTest, FolderThatCannotBeWrittenIsAnIoError) {
  write_file(folder_ / "file", "");
  CSVLogger logger;
  EXPECT_EQ(thrown<IoError>([&] { logger.setup(folder_ / "file" / "run"); }),
            (folder_ / "file" / "run").string() +
                ": cannot create this folder: Not a directory.\n  A part of the path is a file, "
                "not a folder.");
  std::filesystem::create_directory(path_);
  EXPECT_EQ(thrown<IoError>([&] { logger.setup(folder_.path()); }),
            path_.string() + ": cannot write: Is a directory.\n  This is a folder; give a file.");
}

TEST_F(CSVLoggerTest, FileOfAnotherKindIsRefusedAndKept) {
  for (const std::string text :
       {"loss,epoch\n1,2\n", "a text\nof two lines", "x", "epoch,step,a", "epoch\n1\n",
        "epoch,step,a\r\n0,0,1\r\n", "epoch,step,\"a\n", "epoch,step,\"a\"\n", "\n"}) {
    write_file(path_, text);
    CSVLogger logger;
    EXPECT_EQ(thrown<DataError>([&] { logger.setup(folder_.path()); }),
              path_.string() +
                  ":1: is not a header that CSVLogger wrote (epoch,step,...), so rows cannot be "
                  "appended. Move the file away, or choose another folder.");
    EXPECT_EQ(read_file(path_), text);
  }
}

TEST_F(CSVLoggerTest, StateOfAnotherLoggerIsRefused) {
  CSVLogger logger;
  logger.setup(folder_.path());
  for (const auto& state : {nlohmann::json(), nlohmann::json(3), nlohmann::json({{"rows", -1}}),
                            nlohmann::json({{"last_step", 3}})}) {
    EXPECT_EQ(
        thrown<CheckpointError>([&] { logger.load_state_dict(state); }),
        path_.string() + ": the checkpoint's state of this logger is " + state.dump() +
            ", not {\"rows\": N}. Resume with the loggers of the run that wrote the checkpoint.");
  }
}

TEST_F(CSVLoggerTest, FewerRowsThanTheCheckpointHadAreKeptWithAWarning) {
  CSVLogger logger;
  logger.setup(folder_.path());
  testing::internal::CaptureStderr();
  logger.load_state_dict({{"rows", 5}});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");  // another folder
  logger.log_metrics({{"a", 1}}, 0);
  testing::internal::CaptureStderr();
  logger.load_state_dict({{"rows", 5}});
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_NE(
      warning.find(
          " W " + path_.string() +
          ": has 1 rows, 5 when the checkpoint was written. The missing rows never reached the "
          "disk; training is not affected.\n"),
      std::string::npos)
      << warning;
  EXPECT_EQ(logger.state_dict().at("rows"), 1);
}

}  // namespace
}  // namespace trainer::test
