#include <trainer/trainer.h>

#include <gtest/gtest.h>
#include <torch/csrc/autograd/anomaly_mode.h>

#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Least squares in float64 without anything random: what a step does can be computed by hand.
class Regression : public Module {
 public:
  Regression() : weight(register_parameter("weight", torch::arange(1, 4, torch::kFloat64))) {}

  torch::Tensor training_step(const Batch& batch, int64_t) override {
    ++num_batches;
    return loss_of(batch);
  }
  torch::Tensor loss_of(const Batch& batch) {
    auto [x, y] = batch.unpack<2>();
    return (x.matmul(weight) - y).square().mean();
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(0.1));
  }

  torch::Tensor weight;
  int64_t num_batches = 0;
};

Batch regression_data(int64_t num_samples) {
  auto generator = at::detail::createCPUGenerator(11);
  const auto options = torch::TensorOptions(torch::kFloat64);
  return {torch::randn({num_samples, 3}, generator, options),
          torch::randn({num_samples}, generator, options)};
}

DataLoader load(const Batch& data, int64_t batch_size) {
  return {std::make_shared<TensorDataset>(data.tensors()), {.batch_size = batch_size}};
}

TEST(Trainer, TrainsForTheEpochsAndStepsItIsGiven) {
  struct Case {
    std::optional<int64_t> max_epochs;
    int64_t max_steps;
    BatchLimit limit;
    int64_t batches, steps, epochs;
  };
  // 10 batches in an epoch, two of them in a step.
  for (const auto& c : {Case{3, -1, 1.0, 30, 15, 3}, Case{3, 7, 1.0, 14, 7, 1},
                        Case{std::nullopt, 5, 1.0, 10, 5, 1}, Case{2, -1, 0.55, 10, 6, 2},
                        Case{1, -1, int64_t{4}, 4, 2, 1}, Case{1, -1, int64_t{99}, 10, 5, 1},
                        Case{0, -1, 1.0, 0, 0, 0}, Case{9, 0, 1.0, 0, 0, 0}}) {
    TrainerConfig config = quiet();
    config.max_epochs = c.max_epochs;
    config.max_steps = c.max_steps;
    config.limit_train_batches = c.limit;
    config.accumulate_grad_batches = 2;
    Trainer trainer(config);
    Regression module;
    trainer.fit(module, load(regression_data(40), 4));
    EXPECT_EQ(module.num_batches, c.batches);
    EXPECT_EQ(trainer.progress().global_step, c.steps);
    EXPECT_EQ(trainer.progress().current_epoch, c.epochs);
  }
}

torch::Tensor trained(int64_t num_samples, int64_t batch_size, int64_t accumulate) {
  TrainerConfig config = quiet();
  config.max_epochs = 2;
  config.accumulate_grad_batches = accumulate;
  Regression module;
  Trainer(config).fit(module, load(regression_data(num_samples), batch_size));
  return module.weight.detach();
}

TEST(Accumulation, OfBatchesEqualsOneBatchOfTheirSamples) {
  for (const int64_t num_samples : {12, 10, 9}) {  // the last batch holds 4, 2 and 1
    const auto expected = trained(num_samples, num_samples, 1);
    EXPECT_TRUE(torch::allclose(trained(num_samples, 4, 3), expected, 0, 1e-12)) << num_samples;
    EXPECT_TRUE(torch::allclose(trained(num_samples, 1, 99), expected, 0, 1e-12)) << num_samples;
  }
}

TEST(Accumulation, DividesAShorterLastWindowByWhatItHolds) {
  // Batches of 2: windows of 6 and 4 samples against batches of 6 and 4.
  EXPECT_TRUE(torch::allclose(trained(10, 2, 3), trained(10, 6, 1), 0, 1e-12));
}

TEST(GradientClipping, IsWhatItIsByHand) {
  const Batch data = regression_data(8);
  for (const std::string algorithm : {"norm", "value"}) {
    for (const double bound : {0.05, 1e6}) {
      Regression module;
      const auto before = module.weight.detach().clone();
      const auto gradient = torch::autograd::grad({module.loss_of(data)}, {module.weight})[0];
      const auto norm = gradient.norm().item<double>();
      const auto clipped = algorithm == "norm" ? gradient * std::min(1.0, bound / (norm + 1e-6))
                                               : gradient.clamp(-bound, bound);
      TrainerConfig config = quiet();
      config.max_steps = 1;
      config.gradient_clip_val = bound;
      config.gradient_clip_algorithm = algorithm;
      Trainer(config).fit(module, load(data, 8));
      EXPECT_TRUE(torch::allclose(module.weight, before - 0.1 * clipped, 0, 1e-7)) << algorithm;
    }
  }
}

TEST(Validation, DoesNotChangeTraining) {
  const auto weights = [](int64_t sanity, const BatchLimit& val_batches,
                          const CheckInterval& every) {
    seed_everything(4);
    ToyModule module;
    ToyData data;
    TrainerConfig config = quiet();
    config.max_epochs = 2;
    config.num_sanity_val_steps = sanity;
    config.limit_val_batches = val_batches;
    config.val_check_interval = every;
    Trainer(config).fit(module, data);
    EXPECT_TRUE(module.is_training());
    return flat_weights(module);
  };
  const auto without = weights(0, int64_t{0}, 1.0);
  EXPECT_TRUE(torch::equal(weights(2, 1.0, int64_t{3}), without));
  EXPECT_TRUE(torch::equal(weights(-1, 1.0, 1.0), without));
}

class MixedModule : public ToyModule {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    const auto x = batch[0];
    product = x.matmul(x.t()).scalar_type();
    made = torch::zeros({1}).scalar_type();
    auto loss = ToyModule::training_step(batch, batch_idx);
    losses.push_back(loss.item<double>());
    return loss;
  }
  at::ScalarType product = at::kByte;
  at::ScalarType made = at::kByte;
  std::vector<double> losses;
};

TEST(Precision, OfEveryKindTrains) {
  struct Expected {
    const char* name;
    at::ScalarType products, weights;
  };
  ToyData data(64, 64);
  for (const auto& [name, products, weights] :
       {Expected{"32-true", at::kFloat, at::kFloat}, Expected{"64-true", at::kDouble, at::kDouble},
        Expected{"16-true", at::kHalf, at::kHalf},
        Expected{"bf16-true", at::kBFloat16, at::kBFloat16},
        Expected{"16-mixed", at::kHalf, at::kFloat},
        Expected{"bf16-mixed", at::kBFloat16, at::kFloat}}) {
    seed_everything(1);
    TrainerConfig config = quiet();
    config.max_epochs = 80;
    config.gradient_clip_val = 1.0;
    config.precision = name;
    MixedModule module;
    Trainer(config).fit(module, data);
    EXPECT_EQ(module.product, products) << name;
    EXPECT_EQ(module.made, weights) << name << ": what the step makes has the weights' dtype";
    EXPECT_EQ(flat_weights(module).scalar_type(), weights) << name;
    EXPECT_LT(module.losses.back(), 0.7 * module.losses.front()) << name;
  }
  EXPECT_EQ(torch::zeros({1}).scalar_type(), at::kFloat) << "the default is back";
}

TEST(Trainer, ReturnsMetricsAndPredictions) {
  seed_everything(2);
  ToyModule module;
  ToyData data(50);
  Trainer trainer(quiet());
  module.eval();
  const auto batch = [&] {
    auto loader = data.test_dataloader();
    const Batch all = [&] {
      std::vector<torch::Tensor> x, y;
      loader.start(0);
      while (auto next = loader.next()) {
        x.push_back((*next)[size_t{0}]);
        y.push_back((*next)[size_t{1}]);
      }
      return Batch{torch::cat(x), torch::cat(y)};
    }();
    return all;
  }();
  const auto expected = module.forward(batch[size_t{0}]).detach();
  const auto loss = torch::nn::functional::cross_entropy(expected, batch[size_t{1}]).item<double>();
  module.train();
  EXPECT_NEAR(trainer.test(module, data).at("test_loss"), loss, 1e-6);
  EXPECT_NEAR(trainer.validate(module, data).at("val_loss"), loss, 1e-6);
  const auto predictions = trainer.predict(module, data);
  ASSERT_EQ(predictions.size(), 4U);
  EXPECT_EQ(predictions[3].size(0), 2);
  EXPECT_TRUE(torch::allclose(torch::cat(predictions), expected, 0, 1e-6));
  EXPECT_TRUE(module.is_training());
}

class StopAt : public Callback {
 public:
  struct Init {
    int64_t step = 0;
    static constexpr auto fields() { return std::tuple{config::field<&Init::step>("Step.")}; }
  };
  explicit StopAt(Init init) : init_(init) {}
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                          int64_t batch_idx) override {
    trainer.should_stop = trainer.should_stop || batch_idx + 1 == init_.step;
  }

 private:
  Init init_;
};

TEST(Trainer, StopsAtTheNextStepsEdgeWhenAsked) {
  TrainerConfig config = quiet();
  config.accumulate_grad_batches = 2;
  config.callbacks = {use<StopAt>({.step = 3})};
  Trainer trainer(config);
  for (int run = 0; run < 2; ++run) {  // the wish does not outlive its run
    Regression module;
    trainer.fit(module, load(regression_data(40), 4));
    EXPECT_EQ(module.num_batches, 4);
    EXPECT_EQ(trainer.progress().global_step, 2);
    EXPECT_EQ(trainer.progress().current_epoch, 0);
  }
}

TEST(Settings, SwitchLibTorchForTheRunOnly) {
  class Watching : public ToyModule {
    void on_train_start() override {
      EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
      EXPECT_TRUE(at::globalContext().deterministicAlgorithmsWarnOnly());
      EXPECT_TRUE(torch::autograd::AnomalyMode::is_enabled());
    }
  } module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_steps = 1;
  config.deterministic = "warn";
  config.detect_anomaly = true;
  Trainer(config).fit(module, data);
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
  EXPECT_FALSE(torch::autograd::AnomalyMode::is_enabled());
}

TEST(FastDevRun, TriesEverythingAndWritesNothing) {
  ToyModule module;
  ToyData data;
  TrainerConfig config;
  config.fast_dev_run = 3;
  config.default_root_dir = "/nowhere";
  config.callbacks = {use<EarlyStopping>({.monitor = "val_loss"})};
  config.enable_progress_bar = config.enable_model_summary = false;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.progress().global_step, 3);
  EXPECT_EQ(trainer.run_dir(), "");
  EXPECT_TRUE(trainer.validation_metrics().contains("val_loss"));
  EXPECT_TRUE(trainer.callbacks().empty());
}

TEST(FastDevRun, LeavesOutWhatTheModuleWouldSaveAndStopWithToo) {
  class WithCallbacks : public ToyModule {
   public:
    std::vector<std::shared_ptr<Callback>> configure_callbacks() override {
      return {use<ModelCheckpoint>({}).create(),
              use<EarlyStopping>({.monitor = "nowhere"}).create()};
    }
  } module;
  ToyData data;
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  TrainerConfig config;
  config.fast_dev_run = true;
  config.enable_progress_bar = config.enable_model_summary = false;
  Trainer(config).fit(module, data);
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(OverfitBatches, TrainsOnTheSameBatchesInTheirOrder) {
  class Remembering : public ToyModule {
   public:
    torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
      seen.push_back(batch[0].clone());
      return ToyModule::training_step(batch, batch_idx);
    }
    std::vector<torch::Tensor> seen;
  } module;
  ToyData data;
  TrainerConfig config = quiet();
  config.overfit_batches = int64_t{2};
  config.max_epochs = 2;
  Trainer(config).fit(module, data);
  ASSERT_EQ(module.seen.size(), 4U);
  EXPECT_TRUE(torch::equal(module.seen[0], module.seen[2]));
  EXPECT_TRUE(torch::equal(module.seen[1], module.seen[3]));
  EXPECT_FALSE(torch::equal(module.seen[0], module.seen[1]));
}

TEST(SeveralLoaders, AreToldApartInStepsAndNames) {
  class Data : public ToyData {
    std::vector<DataLoader> val_dataloaders() override {
      std::vector<DataLoader> loaders;
      loaders.push_back(ToyData::val_dataloader());
      loaders.push_back(ToyData::test_dataloader());
      return loaders;
    }
  } data;
  class Counting : public ToyModule {
   public:
    void validation_step(const Batch& batch, int64_t) override {
      log("samples", static_cast<double>(batch.size()), {.reduce_fx = ReduceFx::kSum});
      log("index", static_cast<double>(progress().dataloader_idx));
    }
  } module;
  Trainer trainer(quiet());
  EXPECT_EQ(trainer.validate(module, data), (Trainer::MetricMap{{"samples/dataloader_idx_0", 50.0},
                                                                {"samples/dataloader_idx_1", 50.0},
                                                                {"index/dataloader_idx_0", 0.0},
                                                                {"index/dataloader_idx_1", 1.0}}));
}

}  // namespace
}  // namespace trainer::test
