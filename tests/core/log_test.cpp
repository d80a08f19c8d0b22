#include <trainer/core/log.h>

#include <functional>
#include <regex>
#include <string>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer::log {
namespace {

/// What `call` writes to standard error, with every time of day as HH:MM:SS.
std::string logged(const std::function<void()>& call) {
  ::testing::internal::CaptureStderr();
  call();
  return std::regex_replace(::testing::internal::GetCapturedStderr(),
                            std::regex("[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"), "HH:MM:SS");
}

void write_all() {
  debug("a");
  info("b");
  warning("c");
  error("d");
}

TEST(Log, IsOneLineWithTimeAndLevel) {
  EXPECT_EQ(logged([] { info("plain {} %s text"); }), "HH:MM:SS I plain {} %s text\n");
  EXPECT_EQ(logged([] { info("ends with a newline\n"); }), "HH:MM:SS I ends with a newline\n");
  EXPECT_EQ(logged([] { warning("two\n  lines"); }), "HH:MM:SS W two\n  lines\n");
}

TEST(Log, ShowsWhatTheLevelAsksFor) {
  const std::string error_line = "HH:MM:SS E d\n";
  const std::string warnings = "HH:MM:SS W c\n" + error_line;
  const std::string infos = "HH:MM:SS I b\n" + warnings;
  EXPECT_EQ(logged(write_all), infos) << "by default";
  set_level(Level::kDebug);
  EXPECT_EQ(logged(write_all), "HH:MM:SS D a\n" + infos);
  set_level(Level::kWarning);
  EXPECT_EQ(logged(write_all), warnings);
  set_level(Level::kError);
  EXPECT_EQ(logged(write_all), error_line);
  set_level(Level::kInfo);
  EXPECT_EQ(logged(write_all), infos);
}

/// The file's lines with every time as DATE HH:MM:SS.
std::string lines_of(const std::filesystem::path& path) {
  return std::regex_replace(test::read_file(path),
                            std::regex("[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"),
                            "DATE HH:MM:SS");
}

TEST(Log, OfManyRanksTheFirstHasTheConsoleAndEachAFile) {
  const test::TempDir dir;
  set_rank(0, 4);
  EXPECT_EQ(rank_prefix(), "");
  EXPECT_EQ(rank_file("runs/version_0"), "runs/version_0/logs/rank_00000.log");
  EXPECT_EQ(logged([] { info("early"); }), "HH:MM:SS I early\n");
  open_file(rank_file(dir.path()));
  EXPECT_EQ(logged([] { warning("late"); }), "HH:MM:SS W late\n");
  EXPECT_EQ(lines_of(dir / "logs/rank_00000.log"), "DATE HH:MM:SS I early\nDATE HH:MM:SS W late\n");
}

/// The last of this program: a rank that is silent stays so.
TEST(LogOfAnotherRank, WritesToItsFileAndErrorsToTheConsole) {
  const test::TempDir dir;
  set_rank(3, 4);
  const std::string prefix = "rank 3/4 (" + host_name() + "): ";
  EXPECT_EQ(rank_prefix(), prefix);
  open_file(rank_file(dir.path()));
  EXPECT_EQ(logged([] {
              info("a");
              warning("b");
              error("c");
              console::write_line("a summary");
            }),
            "HH:MM:SS E " + prefix + "c\n");
  ::testing::internal::CaptureStdout();
  console::print("results");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  const std::string written = "DATE HH:MM:SS I a\nDATE HH:MM:SS W b\nDATE HH:MM:SS E c\n";
  EXPECT_EQ(lines_of(dir / "logs/rank_00003.log"), written);
  open_file(dir / "next.log");
  info("d");
  EXPECT_EQ(lines_of(dir / "next.log"), "DATE HH:MM:SS I d\n");
  EXPECT_EQ(lines_of(dir / "logs/rank_00003.log"), written);
  const std::string not_a_folder = (dir / "next.log" / "rank.log").string();
  EXPECT_THROW(open_file(not_a_folder), IoError);
}

}  // namespace
}  // namespace trainer::log
