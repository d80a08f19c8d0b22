// Trainer::fit and its kin on several ranks, under real mpirun.

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <torch/optim/lbfgs.h>

#include <tests/support/shared_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>
#include <trainer/world.h>

namespace trainer::test {
namespace {

int rank() { return world().rank(); }
int size() { return world().size(); }

/// The sums of what every rank says of each key.
std::map<int64_t, int64_t> counts_over_ranks(const std::vector<int64_t>& own) {
  std::map<int64_t, int64_t> counts;
  for (const auto& text : world().all_gather(nlohmann::json(own).dump())) {
    for (const int64_t key : nlohmann::json::parse(text)) {
      ++counts[key];
    }
  }
  return counts;
}

/// Sees which samples it is given; the data is 0, 1, 2, ...
class Seeing : public Module {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    see(batch, trained);
    const auto loss = (layer(batch[0].to(torch::kFloat32).unsqueeze(1))).square().mean();
    log("train_ones", 1.0, {.on_step = false, .on_epoch = true});
    log("train_index", batch[0].to(torch::kFloat64).mean(), {.on_step = false, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, int64_t) override {
    see(batch, validated);
    log("val_ones", 1.0);
    log("val_index", batch[0].to(torch::kFloat64).mean());
    log("val_count", static_cast<double>(batch.size()), {.reduce_fx = ReduceFx::kSum});
  }
  torch::Tensor predict_step(const Batch& batch, int64_t) override { return batch[0] * 2; }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::SGD>(parameters(), 1e-9);
  }
  std::vector<int64_t> trained, validated;

 protected:
  static void see(const Batch& batch, std::vector<int64_t>& seen) {
    for (int64_t i = 0; i < batch.size(); ++i) {
      seen.push_back(batch[0][i].item<int64_t>());
    }
  }
  torch::nn::Linear layer = register_module("layer", torch::nn::Linear(1, 1));
};

class Numbers : public DataModule {
 public:
  Numbers(int64_t num_samples, int64_t batch_size, int64_t num_val)
      : num_samples_(num_samples), batch_size_(batch_size), num_val_(num_val) {}
  DataLoader train_dataloader() override {
    return {dataset(num_samples_), {.batch_size = batch_size_, .shuffle = true}};
  }
  DataLoader val_dataloader() override { return {dataset(num_val_), {.batch_size = batch_size_}}; }
  DataLoader predict_dataloader() override { return val_dataloader(); }
  void prepare_data() override { ++prepared; }
  int prepared = 0;

 private:
  static std::shared_ptr<Dataset> dataset(int64_t n) {
    return std::make_shared<TensorDataset>(std::vector<torch::Tensor>{torch::arange(n)});
  }
  int64_t num_samples_, batch_size_, num_val_;
};

TEST(DistributedFit, EverySampleOfAnEpochIsTrainedOnOnceAndValidatedOnOnce) {
  for (const int64_t num_samples : {1, 3, 16, 37}) {
    Seeing module;
    Numbers data(num_samples, 4, num_samples);
    TrainerConfig config = quiet();
    config.max_epochs = 1;
    Trainer trainer(config);
    trainer.fit(module, data);
    EXPECT_EQ(trainer.progress().samples, num_samples);
    for (int64_t i = 0; i < num_samples; ++i) {
      EXPECT_EQ(counts_over_ranks(module.validated)[i], 1) << i << " of " << num_samples;
    }
    if (num_samples % size() == 0 || num_samples > 4 * size()) {
      for (const auto& [index, count] : counts_over_ranks(module.trained)) {
        EXPECT_LE(count, index == -1 ? 0 : size()) << index;
      }
    }
    // D1: means are exact however the samples fall on ranks.
    const auto metrics = trainer.callback_metrics();
    const double mean = static_cast<double>(num_samples - 1) / 2;
    EXPECT_DOUBLE_EQ(metrics.at("val_ones"), 1);
    EXPECT_DOUBLE_EQ(metrics.at("val_index"), mean);
    EXPECT_DOUBLE_EQ(metrics.at("val_count"), static_cast<double>(num_samples));
    EXPECT_DOUBLE_EQ(metrics.at("train_ones"), 1);
    EXPECT_NEAR(metrics.at("train_index"), mean, 1e-12);
  }
}

TEST(DistributedFit, RanksWithDataOfTheirOwnEndTogether) {
  Seeing module;
  Numbers data(5 + 7 * rank(), 2, 3 + rank());
  TrainerConfig config = quiet();
  config.max_epochs = 2;
  config.use_distributed_sampler = false;
  Trainer trainer(config);
  trainer.fit(module, data);
  const int64_t all = size() * 5 + 7 * size() * (size() - 1) / 2;
  EXPECT_EQ(trainer.progress().samples, 2 * all);
  // Its own samples, each twice, then repeated ones that count for nothing.
  std::set<int64_t> own(module.trained.begin(), module.trained.end());
  EXPECT_EQ(own.size(), static_cast<size_t>(5 + 7 * rank()));
  EXPECT_DOUBLE_EQ(trainer.callback_metrics().at("train_ones"), 1);
  const auto weights = world().all_gather(c10::str(flat_weights(module)));
  EXPECT_TRUE(std::equal(weights.begin() + 1, weights.end(), weights.begin()));
}

TEST(DistributedFit, RanksDrawDifferentNumbersAndStayEqual) {
  seed_everything(3);
  ToyModule module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  Trainer(config).fit(module, data);
  const auto weights = world().all_gather(c10::str(flat_weights(module)));
  EXPECT_TRUE(std::equal(weights.begin() + 1, weights.end(), weights.begin()));
  const auto states = world().all_gather(get_rng_state());
  EXPECT_EQ(std::set<std::string>(states.begin(), states.end()).size(),
            static_cast<size_t>(size()));
}

TEST(DistributedFit, PrepareDataRunsOnceANode) {
  Seeing module;
  Numbers data(8, 2, 4);
  TrainerConfig config = quiet();
  config.max_steps = 1;
  Trainer(config).fit(module, data);
  EXPECT_EQ(data.prepared, world().local_rank() == 0 ? 1 : 0);
}

class OtherNames : public Seeing {
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    if (rank() == 1) {
      log("only_here", 1.0, {.on_step = false, .on_epoch = true});
    }
    return Seeing::training_step(batch, batch_idx);
  }
};

TEST(DistributedFit, NamesThatDifferBetweenRanksAreTold) {
  if (size() < 2) {
    GTEST_SKIP() << "one rank logs what it logs";
  }
  OtherNames module;
  Numbers data(8, 2, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  const auto text = thrown<UsageError>([&] { Trainer(config).fit(module, data); });
  EXPECT_NE(text.find("the ranks logged different metrics in this epoch: rank 0 train_ones, "
                      "train_index; rank 1 only_here, train_ones, train_index.\n"),
            std::string::npos)
      << text;
}

/// The second set is too small for every rank to have a part of it.
class TwoSets : public Numbers {
 public:
  TwoSets() : Numbers(8, 2, 10) {}
  std::vector<DataLoader> val_dataloaders() override {
    std::vector<DataLoader> loaders;
    loaders.push_back(Numbers(0, 2, 10).val_dataloader());
    loaders.push_back(Numbers(0, 2, 1).val_dataloader());
    return loaders;
  }
};

class LogsAtTheEnd : public Seeing {
  void on_validation_epoch_end() override { log("at_the_end", 2.0); }
};

TEST(DistributedFit, ARankWithoutABatchOfASetIsToldItsMetrics) {
  LogsAtTheEnd module;
  TwoSets data;
  TrainerConfig config = quiet();
  config.max_steps = 1;
  const auto metrics = Trainer(config).validate(module, data);
  EXPECT_EQ(metrics.at("val_index/dataloader_idx_0"), 4.5);
  EXPECT_EQ(metrics.at("val_count/dataloader_idx_1"), 1);
  EXPECT_EQ(metrics.at("val_ones/dataloader_idx_1"), 1);
  EXPECT_EQ(metrics.at("at_the_end"), 2);
  EXPECT_EQ(metrics.size(), 7U);
}

/// Stops from one rank alone.
class StopHere : public Callback {
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                          int64_t) override {
    if (rank() == size() - 1 && trainer.progress().global_step == 3) {
      trainer.should_stop = true;
    }
  }
};

TEST(DistributedFit, AStopThatOneRankAsksForStopsAllAtTheSameStep) {
  Seeing module;
  Numbers data(100, 2, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 5;
  config.callbacks = {use<StopHere>()};
  Trainer trainer(config);
  trainer.fit(module, data);
  // Alone at once; with others, who hear of it with the next step's gradients.
  EXPECT_EQ(trainer.progress().global_step, size() == 1 ? 3 : 4);
}

TEST(DistributedFit, MaxTimeStopsAllAtTheSameStep) {
  Seeing module;
  Numbers data(1000, 1, 1);
  TrainerConfig config = quiet();
  config.max_time = Duration("0.2s");
  Trainer trainer(config);
  trainer.fit(module, data);
  const auto steps = world().all_gather(std::to_string(trainer.progress().global_step));
  EXPECT_TRUE(std::equal(steps.begin() + 1, steps.end(), steps.begin()));
}

torch::Tensor fit_in(const fs::Path& root, int64_t max_steps, const Trainer::CkptPath& ckpt_path,
                     int64_t batch_size = 4) {
  seed_everything(5);
  ToyModule module;
  ToyData data(50, batch_size);
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.default_root_dir = root.string();
  config.max_steps = max_steps;
  Trainer(config).fit(module, data, ckpt_path);
  return flat_weights(module);
}

TEST(DistributedFit, ResumeEqualsNeverStoppedBitForBit) {
  const SharedDir dir;
  const auto expected = fit_in(dir.path() / "whole", 20, {});
  for (const int64_t stop : {3, 7, 13}) {
    const auto root = dir.path() / ("stopped" + std::to_string(stop));
    fit_in(root, stop, {});
    EXPECT_TRUE(torch::equal(fit_in(root, 20, "last"), expected)) << "stopped at " << stop;
  }
}

TEST(DistributedFit, OneRankWritesTheRun) {
  const SharedDir dir;
  ToyModule module;
  ToyData data;
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.logger = {"CSVLogger"};
  config.default_root_dir = dir.path().string();
  config.max_epochs = 2;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.run_dir(), dir.path() / "version_0");
  world().barrier();
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "version_1"));
  EXPECT_TRUE(std::filesystem::exists(dir.path() / "version_0/metrics.csv"));
  EXPECT_TRUE(trainer.run_directory()->last().has_value());
}

/// Its loss, and what it logs of it, is another one on each rank.
class OwnLoss : public Seeing {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    const auto loss = Seeing::training_step(batch, batch_idx);
    const auto step = static_cast<double>(progress().global_step);
    log("own", rank() % 2 == 0 ? -step : step);  // better and better, or worse and worse
    return loss;
  }
};

class FollowsOwnLoss : public OwnLoss {
  OptimizerConfig configure_optimizers() override {
    auto optimizer = std::make_unique<optim::SGD>(parameters(), 1e-9);
    auto schedule =
        std::make_unique<ReduceLROnPlateau>(*optimizer, ReduceLROnPlateau::Init{.patience = 0});
    return {std::move(optimizer),
            {.scheduler = std::move(schedule), .interval = Interval::kStep, .monitor = "own"}};
  }
};

TEST(DistributedFit, WhatEachRankLogsForItselfIsDecidedByRank0) {
  const SharedDir dir;
  FollowsOwnLoss module;
  Numbers data(40, 2, 4);
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.default_root_dir = dir.path().string();
  config.max_epochs = 2;
  config.callbacks = {use<ModelCheckpoint>(
      {.monitor = "own", .mode = "min", .save_top_k = 2, .every_n_train_steps = 2})};
  Trainer trainer(config);
  trainer.fit(module, data);
  const auto weights = world().all_gather(c10::str(flat_weights(module)));
  EXPECT_TRUE(std::equal(weights.begin() + 1, weights.end(), weights.begin()));
}

class ByLBFGS : public Seeing {
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<torch::optim::LBFGS>(parameters());
  }
};

TEST(DistributedFit, LBFGSIsRefused) {
  if (size() < 2) {
    GTEST_SKIP() << "one process may have it";
  }
  ByLBFGS module;
  Numbers data(8, 2, 4);
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer(quiet()).fit(module, data); }),
            "LBFGS looks at the loss between its evaluations, and each process has a loss of its "
            "own: they would part. Train in one process, or with another optimizer.");
}

TEST(DistributedFit, SingleDeviceOnSeveralProcessesIsAnError) {
  if (size() < 2) {
    GTEST_SKIP() << "one process may have it";
  }
  TrainerConfig config = quiet();
  config.strategy = "single_device";
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer trainer(config); }),
            c10::str("trainer.strategy: SingleDevice works on 1 process, but ", size(),
                     " were started together. Choose ddp, or start one."));
}

}  // namespace
}  // namespace trainer::test
