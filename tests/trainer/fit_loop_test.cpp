// Epochs of the training loop: streams, skipped epochs, limits, schedules that follow a metric.

#include <trainer/fit_loop.h>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Ten samples in an epoch, and nobody knows.
class Stream : public IterableDataset {
 public:
  void start(int64_t epoch) override { next_ = 100 * epoch; }
  std::optional<Batch> next() override {
    if (next_ % 100 == 10) {
      return std::nullopt;
    }
    auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(next_++));
    const auto x = torch::randn({6}, generator);
    return Batch{x, (x.sum() > 0).to(torch::kInt64)};
  }
  nlohmann::json state_dict() const override { return next_; }
  void load_state_dict(const nlohmann::json& state) override { next_ = state.get<int64_t>(); }

 private:
  int64_t next_ = 0;
};

class StreamData : public ToyData {
 public:
  DataLoader train_dataloader() override { return {std::make_shared<Stream>(), {.batch_size = 4}}; }
};

/// Counts what happens in a fit.
class Counter : public ToyModule {
 public:
  bool on_train_batch_start(const Batch&, int64_t batch_idx) override {
    return batch_idx != skip_at;
  }
  void on_train_epoch_end() override { ++epochs; }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    validations += batch_idx == 0 ? 1 : 0;
    ToyModule::validation_step(batch, batch_idx);
  }
  int64_t skip_at = -1, epochs = 0, validations = 0;
};

struct Trained {
  torch::Tensor weights;
  Progress progress;
  int64_t validations;
};

/// Trains from new weights, or from a checkpoint, with checkpoints of its own.
template <typename Data>
Trained train(TrainerConfig config, uint64_t seed, const Trainer::CkptPath& ckpt_path = {}) {
  seed_everything(seed);
  Counter module;
  Data data;
  config.enable_checkpointing = true;
  Trainer trainer(config);
  trainer.fit(module, data, ckpt_path);
  return {flat_weights(module), trainer.progress(), module.validations};
}

/// Trains to each of the stops and goes on from there with other random numbers and weights.
template <typename Data>
void expect_equal_when_resumed(const TrainerConfig& config, const std::vector<int64_t>& stops,
                               const torch::Tensor& expected) {
  for (const int64_t stop : stops) {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    TrainerConfig part = config;
    part.max_steps = stop;
    train<Data>(part, 5);
    const auto resumed = train<Data>(config, 6, "last");
    EXPECT_TRUE(torch::equal(resumed.weights, expected)) << "stopped after step " << stop;
  }
}

TEST(FitLoop, TrainsOnAStreamUntilItEnds) {
  Counter module;
  StreamData data;
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 9);  // 4, 4 and 2 samples an epoch
  EXPECT_EQ(trainer.progress().samples, 30);
  EXPECT_EQ(module.epochs, 3);
  EXPECT_EQ(module.validations, 3);
}

TEST(FitLoop, AccumulatesOverTheEndOfAStream) {
  Counter module;
  StreamData data;
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.accumulate_grad_batches = 2;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 2);
  EXPECT_EQ(trainer.progress().batches, 3);
}

TEST(FitLoop, ResumesAStreamBitForBit) {
  TrainerConfig config = quiet();
  config.max_steps = 8;
  const TempDir whole;
  const auto expected = [&] {
    const WorkingDirectory here(whole.path());
    return train<StreamData>(config, 5);
  }();
  expect_equal_when_resumed<StreamData>(config, {1, 2, 3, 4, 5, 6, 7}, expected.weights);
}

/// The default checkpoint is that after validation, when the stream has ended.
TEST(FitLoop, ResumesAStreamAtTheEndOfAnEpoch) {
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  const TempDir whole, parts;
  const auto expected = [&] {
    const WorkingDirectory here(whole.path());
    return train<StreamData>(config, 5);
  }();
  const WorkingDirectory here(parts.path());
  TrainerConfig first = config;
  first.max_epochs = 1;
  train<StreamData>(first, 5);
  const auto resumed = train<StreamData>(config, 6, "last");
  EXPECT_TRUE(torch::equal(resumed.weights, expected.weights));
  EXPECT_EQ(resumed.validations, 2) << "that of the first epoch was before the checkpoint";
}

TEST(FitLoop, DoesNotRepeatTheValidationOfAnEpochThatIsOver) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.max_epochs = 1;
  Counter first;
  ToyData data(40, 4), smaller_batches(40, 2);
  Trainer(config).fit(first, data);
  config.max_epochs = 2;
  Counter module;
  Trainer trainer(config);
  trainer.fit(module, smaller_batches, "last");
  EXPECT_EQ(module.validations, 1);
  EXPECT_EQ(trainer.progress().batches, 10 + 20);
}

/// 50 samples: an epoch has 4 steps, the last of 2 samples.
class GlobalData : public ToyData {
 public:
  DataLoader train_dataloader() override {
    return {dataset(), {.global_batch_size = 16, .shuffle = true}};
  }
};

/// A step takes 16 samples in every epoch, in 4 batches of 4 and in 2 of 8.
TEST(FitLoop, KeepsTheGlobalBatchSizeWhenAccumulationChanges) {
  TrainerConfig config = quiet();
  config.max_steps = 8;
  config.accumulate_grad_batches = Accumulation({{0, 4}, {1, 2}});
  const TempDir whole;
  const auto expected = [&] {
    const WorkingDirectory here(whole.path());
    return train<GlobalData>(config, 5);
  }();
  EXPECT_EQ(expected.progress.current_epoch, 2);
  EXPECT_EQ(expected.progress.samples, 100);
  EXPECT_EQ(expected.progress.batches, 13 + 7);
  expect_equal_when_resumed<GlobalData>(config, {3, 4, 6}, expected.weights);
}

TEST(FitLoop, SkipsTheRestOfAnEpoch) {
  Counter module;
  module.skip_at = 2;
  ToyData data(40, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 6);
  EXPECT_EQ(module.epochs, 3);
}

TEST(FitLoop, StopsAtASampleCountAndNotBeforeTheMinimum) {
  ToyModule module;
  ToyData data(40, 4);
  TrainerConfig config = quiet();
  config.max_duration = "60sample";
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().samples, 60);

  class Stopper : public Callback {
    void on_train_start(Trainer& t, Module&) override { t.should_stop = true; }
  };
  config = quiet();
  config.max_epochs = 5;
  config.min_steps = 7;
  config.callbacks = {use<Stopper>()};
  Trainer stopped(config);
  stopped.fit(module, data);
  EXPECT_EQ(stopped.progress().global_step, 7);
}

TEST(FitLoop, AsksForNewLoadersWhenTold) {
  class Growing : public ToyData {
   public:
    DataLoader train_dataloader() override {
      ++asked;
      return ToyData::train_dataloader();
    }
    int64_t asked = 0;
  } data;
  ToyModule module;
  TrainerConfig config = quiet();
  config.max_epochs = 5;
  config.reload_dataloaders_every_n_epochs = 2;
  Trainer(config).fit(module, data);
  EXPECT_EQ(data.asked, 3);  // for epochs 0, 2 and 4
}

TEST(FitLoop, GoesOnWithLoadersThatWereGivenByHand) {
  Counter module;
  ToyData data(40, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  config.reload_dataloaders_every_n_epochs = 1;
  Trainer trainer(config);
  trainer.fit(module, data.train_dataloader(), data.val_dataloader());
  EXPECT_EQ(trainer.progress().global_step, 30);
  EXPECT_EQ(module.validations, 3);
}

/// Batches of given sizes, in any order that sizes may come.
class Sizes : public BatchSource {
 public:
  explicit Sizes(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {}
  int64_t size() const override { return static_cast<int64_t>(sizes_.size()); }
  void start(int64_t, int64_t first_batch, int64_t) override { next_ = first_batch; }
  std::optional<Batch> next() override {
    if (next_ == size()) {
      return std::nullopt;
    }
    auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(next_));
    const auto x = torch::randn({sizes_[static_cast<size_t>(next_++)], 6}, generator);
    return Batch{x, (x.sum(1) > 0).to(torch::kInt64)};
  }
  void stop() override {}
  nlohmann::json shape() const override { return {{"sizes", sizes_}}; }

 private:
  std::vector<int64_t> sizes_;
  int64_t next_ = 0;
};

TEST(FitLoop, TakesNoStepWithBatchesWithoutSamples) {
  const auto train_on = [](std::vector<int64_t> sizes, int64_t accumulate) {
    seed_everything(4);
    Counter module;
    TrainerConfig config = quiet();
    config.max_epochs = 2;
    config.accumulate_grad_batches = accumulate;
    Trainer trainer(config);
    trainer.fit(module, DataLoader(std::make_unique<Sizes>(std::move(sizes))));
    return std::pair(flat_weights(module), trainer.progress());
  };
  for (const int64_t accumulate : {1, 2, 3}) {
    const auto [expected, without] = train_on({4, 4}, accumulate);
    const auto [weights, with] = train_on({4, 4, 0}, accumulate);
    EXPECT_EQ(with.global_step, without.global_step) << accumulate;
    EXPECT_EQ(with.samples, 16);
    EXPECT_EQ(with.batches, 6);
    if (accumulate < 3) {  // else dropout draws a number more: for the empty batch of the window
      EXPECT_TRUE(torch::equal(weights, expected)) << accumulate;
    }
    EXPECT_TRUE(weights.isfinite().all().item<bool>());
  }
}

TEST(FitLoop, ChangesAccumulationByEpoch) {
  ToyModule module;
  ToyData data(40, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  config.accumulate_grad_batches = std::map<int64_t, int64_t>{{0, 5}, {2, 1}};
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 2 + 2 + 10);
}

TEST(FitLoop, TellsItsLengthToConfigureOptimizers) {
  class Asking : public ToyModule {
   public:
    OptimizerConfig configure_optimizers() override {
      steps = estimated_stepping_batches();
      return ToyModule::configure_optimizers();
    }
    int64_t steps = 0;
  };
  ToyData data;  // 13 batches in an epoch
  const auto told = [&](auto... change) {
    Asking module;
    TrainerConfig config = quiet();
    config.max_epochs = 2;
    (change(config), ...);
    Trainer(config).fit(module, data);
    return module.steps;
  };
  EXPECT_EQ(told(), 26);
  EXPECT_EQ(told([](auto& c) { c.accumulate_grad_batches = 4; }), 8);
  EXPECT_EQ(told([](auto& c) { c.accumulate_grad_batches = Accumulation({{0, 13}, {1, 1}}); }), 14);
  EXPECT_EQ(told([](auto& c) { c.max_steps = 5; }), 5);
  EXPECT_EQ(told([](auto& c) { c.max_epochs.reset(), c.max_duration = Duration("3batch"); }), 3);
  EXPECT_EQ(told([](auto& c) { c.max_epochs.reset(), c.max_duration = Duration("3sample"); }), -1);
}

TEST(FitLoop, StepsASchedulerThatFollowsAMetric) {
  class Plateau : public ToyModule {
   public:
    void validation_step(const Batch&, int64_t) override { log("val_loss", 1.0); }
    OptimizerConfig configure_optimizers() override {
      auto made = std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(0.1));
      used = made.get();
      auto schedule = std::make_unique<ReduceLROnPlateau>(
          *made, ReduceLROnPlateau::Init{.factor = 0.5, .patience = 1});
      return {std::move(made), {.scheduler = std::move(schedule), .monitor = "val_loss"}};
    }
    void on_train_end() override { lr = used->param_groups()[0].options().get_lr(); }
    torch::optim::Optimizer* used = nullptr;
    double lr = 0;
  } module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_epochs = 6;
  Trainer(config).fit(module, data);
  EXPECT_DOUBLE_EQ(module.lr, 0.025);  // epochs 2 and 4 see the second bad value in a row
}

}  // namespace
}  // namespace trainer::test
