#include <callbacks/progress_bar.h>

#include <algorithm>
#include <cstdlib>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/trainer.h>

#include <tests/callbacks/callback_fixture.h>
#include <tests/support/process.h>

namespace trainer {
namespace {

using test::make_loader;
using test::quiet;
using test::ScriptedModule;
using test::standard_error_of;

constexpr const char* kOnTerminal = "PROGRESS_BAR_TEST_ON_TERMINAL";

// The tests of this file see plain lines wherever they are run from; one of them starts this
// program on a terminal.
const bool is_plain = std::getenv(kOnTerminal) == nullptr && ::setenv("TERM", "dumb", 1) == 0;

const ProgressState kState = {.label = "epoch 3/19",
                              .batch = 30,
                              .num_batches = 45,
                              .batches_per_s = 412.3,
                              .metrics = {{"train_loss_step", 0.12}, {"val_acc", 0.97}}};

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    result.push_back(line);
  }
  return result;
}

TEST(ProgressLine, ShowsEpochBarRateAndMetrics) {
  EXPECT_EQ(progress_line(kState, 120),
            "epoch 3/19  [======>   ] 30/45  412 it/s  train_loss_step=0.12  val_acc=0.97");
  EXPECT_EQ(progress_line(kState, 0),
            "epoch 3/19  30/45  412 it/s  train_loss_step=0.12  val_acc=0.97");
}

TEST(ProgressLine, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(progress_line({.label = "test", .batch = 7}, 80), "test  7");
  EXPECT_EQ(progress_line({.label = "test", .batch = 7, .num_batches = 7}, 80),
            "test  [==========] 7/7");
  EXPECT_EQ(progress_line({.label = "test", .num_batches = 7}, 80), "test  [>         ] 0/7");
}

TEST(ProgressLine, ShowsRatesWithThreeDigitsAndSlowOnesAsSecondsPerBatch) {
  const auto rate = [](double per_s) {
    const std::string line = progress_line({.label = "", .batch = 1, .batches_per_s = per_s}, 0);
    return line.substr(line.find("1  ") + 3);
  };
  EXPECT_EQ(rate(123456.7), "123457 it/s");
  EXPECT_EQ(rate(41.26), "41.3 it/s");
  EXPECT_EQ(rate(1.0), "1 it/s");
  EXPECT_EQ(rate(0.4), "2.5 s/it");
}

TEST(ProgressLine, NeverExceedsTheColumnsNorCutsANumber) {
  const std::string with_bar = "epoch 3/19  [======>   ] 30/45  412 it/s";
  const std::string without_bar = "epoch 3/19  30/45  412 it/s";
  for (size_t columns = 1; columns <= 100; ++columns) {
    std::string line = progress_line(kState, static_cast<int>(columns));
    EXPECT_LE(line.size(), columns);
    for (const std::string metric : {"  train_loss_step=0.12", "  val_acc=0.97"}) {
      if (const size_t at = line.find(metric); at != std::string::npos) {
        line.erase(at, metric.size());
      }
    }
    EXPECT_EQ(line, columns >= with_bar.size() ? with_bar : without_bar.substr(0, columns));
  }
}

/// A clock that tests set, and that counts its readings.
double clock_s = 0;
int clock_readings = 0;
double test_clock() {
  ++clock_readings;
  return clock_s;
}

TEST(Pace, ReadsTheClockEverySixteenthCallWhenTheyFollowFast) {
  clock_s = 0;
  Pace pace(/*interval_s=*/1, test_clock);
  clock_readings = 0;
  int due = 0;
  constexpr int kCalls = 1 << 20;
  for (int i = 1; i <= kCalls; ++i) {
    clock_s = i * 0x1p-16;  // 65536 calls a second, 16 seconds in all
    due += pace.is_due() ? 1 : 0;
  }
  EXPECT_LE(clock_readings, kCalls / 16 + 16);
  EXPECT_EQ(due, 15);  // each interval begins at the reading that ended the one before
}

TEST(Pace, SeesAtTheNextReadingThatCallsHaveBecomeSlow) {
  clock_s = 0;
  Pace pace(/*interval_s=*/1, test_clock);
  for (int i = 0; i < 1000; ++i) {
    pace.is_due();
  }
  int late = 0;
  for (clock_s = 2; !pace.is_due(); clock_s += 2) {
    ++late;
  }
  EXPECT_LT(late, 16);
  for (int i = 0; i < 5; ++i) {
    clock_s += 2;
    EXPECT_TRUE(pace.is_due());  // from then on every call that is slower than the interval
  }
}

TEST(Pace, IsDueAtEveryCallForAnIntervalOfZero) {
  clock_s = 0;
  Pace pace(/*interval_s=*/0, test_clock);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(pace.is_due());
  }
}

TrainerConfig bar_config(const ProgressBar::Init& init) {
  TrainerConfig config = quiet();
  config.num_sanity_val_steps = 2;
  config.max_epochs = 2;
  config.callbacks = {use<ProgressBar>(init)};
  return config;
}

std::string output_of_fit(const TrainerConfig& config) {
  ScriptedModule module({0.5, 0.25});
  return standard_error_of([&] { Trainer(config).fit(module, make_loader(3), make_loader(1)); });
}

TEST(ProgressBar, WritesOneLineAtTheEndOfAShortRun) {
  const std::string text = output_of_fit(bar_config({}));
  EXPECT_TRUE(std::regex_match(
      text, std::regex("trained 6 steps in \\d+\\.\\d s, \\d+ it/s  train_loss_epoch=0\\.5  "
                       "train_loss_step=0\\.5  val_loss=0\\.25\n")))
      << text;
}

TEST(ProgressBar, WritesPlainLinesForALog) {
  const std::string text = output_of_fit(bar_config({.line_interval_s = 0}));
  EXPECT_EQ(text.find_first_of("\r\x1b"), std::string::npos);
  std::vector<std::string> shown;
  for (const auto& line : lines(text)) {
    shown.push_back(std::regex_replace(line, std::regex("  [0-9.e-]+ (it/s|s/it)"), ""));
  }
  shown.back() = shown.back().substr(0, 15);  // without the time
  EXPECT_EQ(shown, (std::vector<std::string>{
                       "sanity check  1",
                       "epoch 0/1  1/3  train_loss_step=0.5",
                       "epoch 0/1  2/3  train_loss_step=0.5",
                       "epoch 0/1  3/3  train_loss_step=0.5",
                       "validation  1/1  train_loss_step=0.5",
                       "epoch 1/1  1/3  train_loss_step=0.5  train_loss_epoch=0.5  val_loss=0.5",
                       "epoch 1/1  2/3  train_loss_step=0.5  train_loss_epoch=0.5  val_loss=0.5",
                       "epoch 1/1  3/3  train_loss_step=0.5  train_loss_epoch=0.5  val_loss=0.5",
                       "validation  1/1  train_loss_step=0.5  train_loss_epoch=0.5  val_loss=0.5",
                       "trained 6 steps",
                   }));
}

TEST(ProgressBar, NamesTheEpochsThatTheRunIsLimitedTo) {
  TrainerConfig config = bar_config({.line_interval_s = 0});
  config.max_epochs.reset();
  config.max_steps = 1;
  EXPECT_NE(output_of_fit(config).find("\nepoch 0  1/3"), std::string::npos);
  EXPECT_NE(output_of_fit(config).find("\ntrained 1 step in "), std::string::npos);
}

TEST(ProgressBar, ShowsTestAndPredictionToo) {
  class Data : public DataModule {
    DataLoader test_dataloader() override { return make_loader(2); }
    DataLoader predict_dataloader() override { return make_loader(1); }
  } data;
  class Module : public ScriptedModule {
    void test_step(const Batch&, int64_t) override {}
    torch::Tensor predict_step(const Batch& batch, int64_t) override { return batch[0]; }
  } module;
  Trainer trainer(bar_config({.line_interval_s = 0}));
  const std::string text = standard_error_of([&] {
    trainer.test(module, data);
    trainer.predict(module, data);
  });
  EXPECT_TRUE(std::regex_match(text, std::regex("test  1  .*\ntest  2  .*\npredict  1  .*\n")))
      << text;
}

TEST(ProgressBar, RefusesNegativeIntervals) {
  EXPECT_THROW(use<ProgressBar>({.refresh_interval_s = -1}).create(), ConfigError);
  EXPECT_THROW(use<ProgressBar>({.line_interval_s = -1}).create(), ConfigError);
}

/// What the process below writes to its terminal; only that process runs it.
TEST(ProgressBarOnTerminal, DISABLED_Fit) {
  TrainerConfig config = bar_config({.refresh_interval_s = 0, .leave = true});
  class Module : public ScriptedModule {
    torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
      if (progress().global_step == 4) {
        console::write_line("a line of the log");
      }
      return ScriptedModule::training_step(batch, batch_idx);
    }
  } module;
  module.script = {0.5, 0.25};
  Trainer(config).fit(module, make_loader(3), make_loader(1));
}

/// What stands on a terminal of `columns` after it received `output`; wrapping makes a new line, as
/// on a real one.
std::vector<std::string> screen(const std::string& output, size_t columns) {
  std::vector<std::string> rows = {""};
  size_t column = 0;
  for (size_t i = 0; i < output.size(); ++i) {
    if (output.compare(i, 4, "\x1b[2K") == 0) {
      rows.back().clear();
      i += 3;
    } else if (output[i] == '\r') {
      column = 0;
    } else if (output[i] == '\n') {
      rows.emplace_back();
    } else {
      if (column == columns) {
        rows.emplace_back();
        column = 0;
      }
      rows.back().resize(std::max(rows.back().size(), column + 1), ' ');
      rows.back()[column++] = output[i];
    }
  }
  return rows;
}

/// Runs the test above on a terminal of so many columns; returns what it wrote there.
std::string output_on_terminal(unsigned short columns) {
  return test::run_on_terminal(
      {"/proc/self/exe", "--gtest_also_run_disabled_tests", "--gtest_filter=*DISABLED_Fit"},
      columns, {{kOnTerminal, "1"}});
}

TEST(ProgressBarOnTerminal, RedrawsOneLineBelowTheLog) {
  const std::string output = output_on_terminal(120);
  auto rows = screen(output, 120);
  for (auto& row : rows) {
    row = std::regex_replace(row, std::regex("  [0-9.e-]+ (it/s|s/it)"), "");
  }
  ASSERT_EQ(rows.size(), 5U) << output;
  EXPECT_EQ(rows[0], "epoch 0/1  [==========] 3/3  train_loss_step=0.5  val_loss=0.5");
  EXPECT_EQ(rows[1], "a line of the log");
  EXPECT_EQ(
      rows[2],
      "epoch 1/1  [==========] 3/3  train_loss_step=0.5  train_loss_epoch=0.5  val_loss=0.25");
  EXPECT_EQ(rows[3].substr(0, 18), "trained 6 steps in");
  EXPECT_EQ(rows[4], "");  // the status line is gone
  EXPECT_NE(output.find("\r\x1b[2Kepoch 0/1  [===>      ] 1/3"), std::string::npos) << output;
}

TEST(ProgressBarOnTerminal, NeverWraps) {
  const std::string output = output_on_terminal(30);
  std::istringstream drawings(output);
  for (std::string part; std::getline(drawings, part, '\r');) {
    if (part.starts_with("\x1b[2Kepoch") && part.find('\n') == std::string::npos) {
      EXPECT_LT(part.size() - 4, 30U) << part;
    }
  }
  EXPECT_NE(output.find("\x1b[2Kepoch"), std::string::npos);
}

}  // namespace
}  // namespace trainer
