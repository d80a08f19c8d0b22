#include <trainer/core/log.h>

#include <functional>
#include <regex>
#include <string>

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace trainer::log
