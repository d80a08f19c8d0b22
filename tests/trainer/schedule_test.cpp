#include <trainer/schedule.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// The batches after which validation runs, in `epochs` epochs of `num_batches`, each of a second.
std::vector<int64_t> validated(const TrainerConfig& config, int64_t num_batches, int64_t epochs,
                               int64_t resumed_at = -1) {
  auto schedule = std::make_unique<ValidationSchedule>(config, num_batches);
  std::vector<int64_t> at;
  Progress progress;
  for (; progress.current_epoch < epochs; ++progress.current_epoch) {
    for (progress.batch_idx = 0; progress.batch_idx < num_batches;) {
      ++progress.batch_idx;
      ++progress.batches;
      const bool is_last = progress.batch_idx == num_batches;
      const int64_t window = config.accumulate_grad_batches.at(progress.current_epoch);
      progress.samples += 10;
      progress.global_step += progress.batch_idx % window == 0 || is_last ? 1 : 0;
      if (progress.batches == resumed_at) {
        const auto state = schedule->state_dict();
        schedule = std::make_unique<ValidationSchedule>(config, num_batches);
        schedule->load_state_dict(state);
      }
      const auto now = static_cast<double>(progress.batches);
      if (schedule->is_due(progress, now, progress.batch_idx == num_batches)) {
        at.push_back(progress.batches);
        schedule->ran(progress, now);
        EXPECT_FALSE(schedule->is_due(progress, now, progress.batch_idx == num_batches));
      }
    }
    schedule->begin_epoch();
  }
  return at;
}

using Batches = std::vector<int64_t>;

TrainerConfig every(CheckInterval interval, std::optional<int64_t> epochs = 1) {
  TrainerConfig config;
  config.val_check_interval = interval;
  config.check_val_every_n_epoch = epochs;
  return config;
}

TEST(ValidationSchedule, CountsFractionsAndBatches) {
  EXPECT_EQ(validated(every(1.0), 5, 3), (Batches{5, 10, 15}));
  EXPECT_EQ(validated(every(0.5), 5, 2), (Batches{2, 4, 7, 9}));
  EXPECT_EQ(validated(every(0.01), 3, 1), (Batches{1, 2, 3}));
  EXPECT_EQ(validated(every(int64_t{3}), 5, 2), (Batches{3, 8}));
  EXPECT_EQ(validated(every(int64_t{1}), 2, 2), (Batches{1, 2, 3, 4})) << "one batch, not 100 %";
}

TEST(ValidationSchedule, SkipsEpochs) {
  EXPECT_EQ(validated(every(1.0, 2), 5, 4), (Batches{10, 20}));
  EXPECT_EQ(validated(every(int64_t{3}, 2), 5, 4), (Batches{8, 18}));
}

TEST(ValidationSchedule, CountsAcrossEpochs) {
  EXPECT_EQ(validated(every(int64_t{7}, std::nullopt), 5, 5), (Batches{7, 14, 21}));
  EXPECT_EQ(validated(every("4batch", std::nullopt), 5, 2), (Batches{4, 8}));
}

TEST(ValidationSchedule, TakesTimeAndSteps) {
  EXPECT_EQ(validated(every("4s"), 5, 3), (Batches{4, 8, 12}));
  EXPECT_EQ(validated(every("25sample"), 5, 2), (Batches{3, 5, 8, 10})) << "10 in a batch";
  TrainerConfig config = every("2step");
  config.accumulate_grad_batches = 2;
  EXPECT_EQ(validated(config, 5, 2), (Batches{4, 7, 10})) << "windows of 2, 2 and 1 batches";
  config.accumulate_grad_batches = Accumulation({{0, 2}, {1, 1}});
  EXPECT_EQ(validated(config, 5, 2), (Batches{4, 6, 8, 10}));
}

TEST(ValidationSchedule, GoesOnWhereItWasSaved) {
  for (const auto& config : {every(0.3), every(int64_t{7}, std::nullopt), every("4s")}) {
    const auto whole = validated(config, 7, 4);
    for (int64_t at = 1; at <= 28; ++at) {
      EXPECT_EQ(validated(config, 7, 4, at), whole) << at;
    }
  }
}

TEST(ValidationSchedule, RefusesAnIntervalThatNoEpochReaches) {
  EXPECT_THROW(ValidationSchedule(every(int64_t{6}), 5), ConfigError);
  EXPECT_NO_THROW(ValidationSchedule(every(int64_t{6}, std::nullopt), 5));
}

TEST(TrainingLimits, AreReachedInEveryUnit) {
  const Progress progress{.current_epoch = 2, .global_step = 20, .batches = 40, .samples = 160};
  const auto is_reached = [&](const Duration& duration, double training_s = 0) {
    TrainerConfig config;
    config.max_duration = duration;
    return TrainingLimits(config).is_reached(progress, training_s);
  };
  for (const char* reached : {"2ep", "20step", "40batch", "160sample"}) {
    EXPECT_TRUE(is_reached(reached)) << reached;
  }
  for (const char* open : {"3ep", "21step", "41batch", "161sample", "1h"}) {
    EXPECT_FALSE(is_reached(open)) << open;
  }
  EXPECT_TRUE(is_reached("1h", 3600));
  TrainerConfig config;
  config.max_time = Duration("10s");
  EXPECT_FALSE(TrainingLimits(config).is_reached({.current_epoch = 5000}, 9)) << "no other limit";
  EXPECT_TRUE(TrainingLimits(config).is_reached({}, 10));
  EXPECT_TRUE(TrainingLimits({}).is_reached({.current_epoch = 1000}, 0)) << "the default";
}

TEST(TrainingLimits, HoldTogether) {
  const auto is_reached = [](const Progress& progress, auto change, double training_s = 0) {
    TrainerConfig config;
    change(config);
    return TrainingLimits(config).is_reached(progress, training_s);
  };
  const auto epochs = [](auto& c) { c.max_epochs = 1, c.max_duration = Duration("3ep"); };
  EXPECT_TRUE(is_reached({.current_epoch = 1}, epochs));
  const auto fewer_epochs = [](auto& c) { c.max_epochs = 5, c.max_duration = Duration("3ep"); };
  EXPECT_TRUE(is_reached({.current_epoch = 3}, fewer_epochs));
  const auto steps = [](auto& c) { c.max_steps = 5, c.max_duration = Duration("20step"); };
  EXPECT_TRUE(is_reached({.global_step = 5}, steps));
  const auto time = [](auto& c) { c.max_time = Duration("5s"), c.max_duration = Duration("9s"); };
  EXPECT_TRUE(is_reached({}, time, 5));
}

TEST(TrainingLimits, HoldBackAnEarlyStop) {
  TrainerConfig config;
  config.min_epochs = 2;
  config.min_steps = 10;
  const TrainingLimits limits(config);
  EXPECT_FALSE(limits.may_stop({.current_epoch = 1, .global_step = 50}));
  EXPECT_FALSE(limits.may_stop({.current_epoch = 3, .global_step = 9}));
  EXPECT_TRUE(limits.may_stop({.current_epoch = 2, .global_step = 10}));
}

}  // namespace
}  // namespace trainer::test
