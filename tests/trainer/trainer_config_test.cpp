#include <trainer/trainer_config.h>

#include <limits>
#include <string>

#include <gtest/gtest.h>

#include <trainer/builtins.h>
#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

TEST(LimitedBatches, CountIsAnUpperBound) {
  EXPECT_EQ(limited_batches(int64_t{0}, 10, "limit"), 0);
  EXPECT_EQ(limited_batches(int64_t{1}, 10, "limit"), 1);
  EXPECT_EQ(limited_batches(int64_t{10}, 10, "limit"), 10);
  EXPECT_EQ(limited_batches(int64_t{11}, 10, "limit"), 10);
  EXPECT_EQ(limited_batches(std::numeric_limits<int64_t>::max(), 0, "limit"), 0);
}

TEST(LimitedBatches, FractionIsRoundedDown) {
  for (int64_t num_batches = 1; num_batches <= 64; ++num_batches) {
    EXPECT_EQ(limited_batches(1.0, num_batches, "limit"), num_batches);
    EXPECT_EQ(limited_batches(0.0, num_batches, "limit"), 0);
    if (num_batches >= 2) {
      EXPECT_EQ(limited_batches(0.5, num_batches, "limit"), num_batches / 2);
    }
  }
  EXPECT_EQ(limited_batches(0.5, 0, "limit"), 0);
}

TEST(LimitedBatches, FractionOfLessThanABatchIsRefused) {
  EXPECT_EQ(
      thrown<ConfigError>([] { limited_batches(0.01, 99, "limit_val_batches"); }),
      "trainer.limit_val_batches: 0.01 of 99 batches is less than one. Write 1 for one batch, "
      "or a larger fraction.");
}

TEST(TrainerConfig, FractionsAboveOneAreRefusedWithTheCountThatMayBeMeant) {
  TrainerConfig config;
  EXPECT_NO_THROW(config.validate());
  config.limit_train_batches = int64_t{5};
  config.val_check_interval = int64_t{100};
  EXPECT_NO_THROW(config.validate());
  const auto refusal = [](auto TrainerConfig::*member) {
    TrainerConfig wrong;
    wrong.*member = 2.5;
    return thrown<ConfigError>([&] { wrong.validate(); });
  };
  const std::string rest =
      " is 2.5, a fraction above 1. Write 3 for that many batches, or 1.0 for all.";
  EXPECT_EQ(refusal(&TrainerConfig::limit_train_batches), "limit_train_batches" + rest);
  EXPECT_EQ(refusal(&TrainerConfig::limit_val_batches), "limit_val_batches" + rest);
  EXPECT_EQ(refusal(&TrainerConfig::limit_test_batches), "limit_test_batches" + rest);
  EXPECT_EQ(refusal(&TrainerConfig::limit_predict_batches), "limit_predict_batches" + rest);
  EXPECT_EQ(refusal(&TrainerConfig::val_check_interval), "val_check_interval" + rest);
  config.limit_val_batches = 1e20;
  EXPECT_EQ(thrown<ConfigError>([&] { config.validate(); }),
            "limit_val_batches is 1e+20, a fraction above 1. Write 100000000000000000000 for that "
            "many batches, or 1.0 for all.");
}

TEST(TrainerConfig, MoreDevicesThanTheStrategyCanUseAreRefused) {
  TrainerConfig config;
  config.devices = 1;
  EXPECT_NO_THROW(config.validate());
  config.devices = 2;
  EXPECT_EQ(thrown<ConfigError>([&] { config.validate(); }),
            "devices is 2 and num_nodes is 1: the strategy auto trains on one device of one "
            "computer. Set both to 1.");
  config.devices = {};
  config.num_nodes = 4;
  EXPECT_EQ(thrown<ConfigError>([&] { config.validate(); }),
            "devices is auto and num_nodes is 4: the strategy auto trains on one device of one "
            "computer. Set both to 1.");
}

/// What a run saves of its settings must give the same run.
TEST(TrainerConfig, IsWrittenAndReadBackWhole) {
  register_builtins();
  TrainerConfig config;
  config.max_epochs = 7;
  config.accelerator = "CPUAccelerator";  // as "auto" is written once it is resolved
  config.strategy = "SingleDevice";
  config.limit_val_batches = int64_t{1};
  config.val_check_interval = 0.1;
  config.gradient_clip_val = 1e-3;
  config.devices = 1;
  config.enable_progress_bar = false;
  const std::string written = config::to_yaml(config::write(config));
  config::Diagnostics diagnostics;
  const auto again =
      config::read<TrainerConfig>(config::parse_yaml(written, "x.yaml"), "trainer", diagnostics);
  diagnostics.throw_if_any();
  EXPECT_EQ(config::to_yaml(config::write(again)), written);
  EXPECT_EQ(again.max_epochs, 7);
  EXPECT_EQ(again.limit_val_batches, BatchLimit(int64_t{1}));
  EXPECT_EQ(again.limit_train_batches, BatchLimit(1.0));
}

}  // namespace
}  // namespace trainer
