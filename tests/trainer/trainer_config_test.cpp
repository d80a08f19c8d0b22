#include <trainer/trainer_config.h>

#include <limits>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <trainer/builtins.h>
#include <trainer/core/error.h>
#include <trainer/world.h>

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

/// What is wrong with the setting that `change` makes.
template <class F>
std::string refusal(const F& change) {
  register_builtins();
  TrainerConfig config;
  change(config);
  return thrown<ConfigError>([&] { config::check(config, "trainer"); });
}

TEST(TrainerConfig, FractionsAboveOneAreRefusedWithTheCountThatMayBeMeant) {
  register_builtins();
  TrainerConfig config;
  config.limit_train_batches = int64_t{5};
  config.val_check_interval = int64_t{100};
  EXPECT_NO_THROW(config::check(config, "trainer"));
  using T = TrainerConfig;
  const std::pair<const char*, BatchLimit T::*> limits[] = {
      {"limit_train_batches", &T::limit_train_batches},
      {"limit_val_batches", &T::limit_val_batches},
      {"limit_test_batches", &T::limit_test_batches},
      {"limit_predict_batches", &T::limit_predict_batches},
      {"overfit_batches", &T::overfit_batches}};
  for (const auto& limit : limits) {
    EXPECT_EQ(
        refusal([&](auto& c) { c.*limit.second = 2.5; }),
        fmt::format("in code: trainer.{}: is '2.5': a fraction above 1. Write 3 for that many "
                    "batches, or 1.0 for all.",
                    limit.first));
  }
  EXPECT_EQ(refusal([](auto& c) { c.limit_val_batches = 1e20; }),
            "in code: trainer.limit_val_batches: is '1e+20': a fraction above 1. Write "
            "100000000000000000000 for that many batches, or 1.0 for all.");
}

TEST(TrainerConfig, ValidationIntervalsMustPassWithinTraining) {
  const auto told = [](const CheckInterval& interval) {
    return refusal([&](auto& c) { c.val_check_interval = interval; });
  };
  const std::string not_positive =
      "must be greater than 0. Set limit_val_batches=0 to validate never.";
  const std::string place = "in code: trainer.val_check_interval: is ";
  EXPECT_EQ(told(int64_t{0}), place + "'0': " + not_positive);
  EXPECT_EQ(told(0.0), place + "'0.0': " + not_positive);
  EXPECT_EQ(told("0s"), place + "'0s': " + not_positive);
  EXPECT_EQ(told(1.5),
            place + "'1.5': a fraction above 1. Write 2 for that many batches, or 1.0 for all.");
  EXPECT_EQ(told("2ep"), place +
                             "'2ep': write a time, steps, batches or samples; epochs stand in "
                             "check_val_every_n_epoch.");
  EXPECT_EQ(refusal([](auto& c) { c.max_time = Duration("3ep"); }),
            "in code: trainer.max_time: is '3ep': is no time. Write it as max_duration.");
}

TEST(TrainerConfig, EveryMistakeIsToldAtOnce) {
  EXPECT_EQ(refusal([](auto& c) {
              c.devices = -2;
              c.num_nodes = 0;
              c.limit_val_batches = 1.5;
              c.logger = {"CSVLogger", "JSONLLogger", "CSVLogger"};
            }),
            "in code: trainer.devices: is '-2': must be at least 1, or auto.\n"
            "in code: trainer.num_nodes: is '0': must be at least 1.\n"
            "in code: trainer.limit_val_batches: is '1.5': a fraction above 1. Write 2 for that "
            "many batches, or 1.0 for all.\n"
            "in code: trainer.logger: is a list: CSVLogger stands in it twice. List it once.");
}

TEST(TrainerConfig, DevicesAndNodesAreThoseOfTheProcesses) {
  struct Started : World {
    std::string launcher() const override { return "srun"; }
    int size() const override { return 6; }
    int local_size() const override { return 3; }
    int num_nodes() const override { return 2; }
    int node_rank() const override { return 1; }
  };
  const auto told = [](int64_t devices, int64_t num_nodes, const World& world) {
    TrainerConfig config;
    config.devices = devices;
    config.num_nodes = num_nodes;
    return thrown<ConfigError>([&] { config.check_world(world); });
  };
  EXPECT_EQ(told(2, 1, World()),
            "trainer.devices is 2 and trainer.num_nodes is 1, but this process was started alone. "
            "Start it with mpirun -n 2.");
  EXPECT_EQ(told(0, 4, World()),
            "trainer.devices is auto and trainer.num_nodes is 4, but this process was started "
            "alone. Start it with mpirun -n 4 or srun --mpi=pmix -N 4 -n 4.");
  EXPECT_EQ(told(4, 2, Started()),
            "trainer.devices is 4, but srun has started 3 processes on node 2 of 2. Set devices to "
            "auto, or start 4 there.");
  EXPECT_EQ(told(3, 4, Started()),
            "trainer.num_nodes is 4, but srun has started processes on 2 nodes. Leave it out, or "
            "start them on 4.");
  for (const auto& [devices, num_nodes] : {std::pair(0, 1), {3, 1}, {0, 2}, {3, 2}}) {
    TrainerConfig config;
    config.devices = devices;
    config.num_nodes = num_nodes;
    EXPECT_NO_THROW(config.check_world(Started()));
  }
  EXPECT_NO_THROW(TrainerConfig().check_world(World()));
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
