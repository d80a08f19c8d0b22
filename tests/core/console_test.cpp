#include <trainer/core/console.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <tests/support/process.h>

namespace trainer::console {
namespace {

struct Streams {
  std::string out, err;
};

Streams written(const std::function<void()>& call) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  call();
  std::string err = ::testing::internal::GetCapturedStderr();
  return {::testing::internal::GetCapturedStdout(), std::move(err)};
}

TEST(Console, IsPlainTextInAFile) {
  const auto streams = written([] {
    EXPECT_FALSE(is_live());
    set_status("status");
    write_line("line");
    print("result\n");
    write_line("");
    clear_status();
  });
  EXPECT_EQ(streams.err, "line\n\n");
  EXPECT_EQ(streams.out, "result\n");
}

TEST(Console, TakesTheColumnsOfAFileFromTheEnvironment) {
  const auto columns_with = [](const char* value) {
    ::setenv("COLUMNS", value, 1);
    int result = 0;
    written([&] { result = columns(); });
    ::unsetenv("COLUMNS");
    return result;
  };
  EXPECT_EQ(columns_with("132"), 132);
  EXPECT_EQ(columns_with(""), 80);
  EXPECT_EQ(columns_with("-3"), 80);
  EXPECT_EQ(columns_with("wide"), 80);
}

TEST(Console, LinesOfManyThreadsStayWhole) {
  constexpr int kLines = 200;
  const auto streams = written([] {
    std::vector<std::thread> threads;
    for (const char letter : {'a', 'b', 'c', 'd'}) {
      threads.emplace_back([letter] {
        for (int i = 0; i < kLines; ++i) {
          write_line(std::string(60, letter));
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
  });
  ASSERT_EQ(streams.err.size(), size_t{4 * kLines * 61});
  for (size_t at = 0; at < streams.err.size(); at += 61) {
    ASSERT_EQ(streams.err.substr(at, 61), std::string(60, streams.err[at]) + "\n");
  }
}

/// What the process below writes to its terminal; only that process runs it.
TEST(ConsoleOnTerminal, DISABLED_Write) {
  set_status("working");
  write_line("a line");
  set_status("working on " + std::to_string(columns()) + " columns");
  print("");
  clear_status();
  write_line("the end");
}

TEST(ConsoleOnTerminal, KeepsTheStatusBelowWhatIsWritten) {
  const std::string erase = "\r\x1b[2K";
  EXPECT_EQ(test::run_on_terminal({"/proc/self/exe", "--gtest_also_run_disabled_tests",
                                   "--gtest_filter=*DISABLED_Write"},
                                  100),
            erase + "working" + erase + "a line\r\nworking" + erase + "working on 100 columns" +
                erase + "working on 100 columns" + erase + "the end\r\n");
}

}  // namespace
}  // namespace trainer::console
