// What must not change the weights that training arrives at: not by a bit.

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Adds noise to each sample, which the loader's threads draw.
class Noisy : public ToyData {
 public:
  explicit Noisy(int64_t num_workers = 1, int64_t batch_size = 4)
      : num_workers_(num_workers), batch_size_(batch_size) {}
  DataLoader train_dataloader() override {
    auto add_noise = [](const Batch& sample, torch::Generator& generator) {
      return Batch{sample[size_t{0}] + 0.1 * torch::randn({6}, generator), sample[size_t{1}]};
    };
    return {std::make_shared<TransformedDataset>(dataset(), add_noise),
            {.batch_size = batch_size_, .shuffle = true, .num_workers = num_workers_}};
  }

 private:
  int64_t num_workers_, batch_size_;
};

torch::Tensor train(const TrainerConfig& config, DataModule& data) {
  seed_everything(11);
  ToyModule module;
  Trainer(config).fit(module, data);
  return flat_weights(module);
}

TrainerConfig three_epochs() {
  TrainerConfig config = quiet();
  config.max_epochs = 3;
  return config;
}

TEST(Training, DoesNotDependOnValidation) {
  Noisy data;
  TrainerConfig config = three_epochs();
  config.limit_val_batches = int64_t{0};
  const auto expected = train(config, data);
  config.limit_val_batches = 1.0;
  for (const CheckInterval interval : {CheckInterval(1.0), CheckInterval(0.3),
                                       CheckInterval(int64_t{5}), CheckInterval("3step")}) {
    config.val_check_interval = interval;
    config.num_sanity_val_steps = std::holds_alternative<double>(interval) ? -1 : 1;
    EXPECT_TRUE(torch::equal(train(config, data), expected));
  }
}

TEST(Training, DoesNotDependOnValidationUnderScheduleFreeOptimizers) {
  Noisy data;
  const auto fit = [&](const BatchLimit& limit_val_batches) {
    TrainerConfig config = three_epochs();
    config.limit_val_batches = limit_val_batches;
    config.val_check_interval = 0.3;
    seed_everything(11);
    ToyModule module;
    Trainer trainer(config);
    trainer.set_optimizer({.optimizer = "ScheduleFreeAdamW"});
    trainer.fit(module, data);
    return module.parameters()[0].detach().clone();
  };
  EXPECT_TRUE(torch::equal(fit(1.0), fit(int64_t{0})));
}

TEST(Training, DoesNotDependOnTheLoadersThreads) {
  Noisy none(0);
  const auto expected = train(three_epochs(), none);
  for (const int64_t num_workers : {1, 2, 4}) {
    Noisy data(num_workers);
    EXPECT_TRUE(torch::equal(train(three_epochs(), data), expected)) << num_workers;
  }
}

TEST(Training, DoesNotDependOnWhatIsLogged) {
  Noisy data;
  const auto expected = train(three_epochs(), data);
  for (const char* logger : {"CSVLogger", "JSONLLogger", "TensorBoardLogger"}) {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    TrainerConfig config = three_epochs();
    config.logger = {logger};
    config.log_every_n_steps = 2;
    config.enable_checkpointing = true;
    config.enable_model_summary = true;
    config.callbacks = {"LearningRateMonitor"};
    EXPECT_TRUE(torch::equal(train(config, data), expected)) << logger;
  }
}

/// No dropout: the random numbers of several small batches are not those of a large one.
class Plain : public Module {
 public:
  Plain() : layer_(register_module("layer", torch::nn::Linear(6, 2))) {}
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    return torch::nn::functional::cross_entropy(layer_(x), y);
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::SGD>(parameters(), optim::SGDOptions(0.5).momentum(0.9));
  }

 private:
  torch::nn::Linear layer_;
};

/// In float64, where sums in another order differ little. The last batch and window are uneven.
TEST(Training, WithAccumulationEqualsTrainingWithLargerBatches) {
  const auto fit = [](int64_t batch_size, int64_t accumulate) {
    seed_everything(5);
    Plain module;
    ToyData data(50, batch_size);
    TrainerConfig config = three_epochs();
    config.precision = "64-true";
    config.gradient_clip_val = 0.4;
    config.accumulate_grad_batches = accumulate;
    Trainer trainer(config);
    trainer.fit(module, data);
    return std::pair(module.parameters()[0].detach().clone(), trainer.progress().global_step);
  };
  for (const int64_t accumulate : {2, 3, 4, 7, 100}) {
    const auto [expected, expected_steps] = fit(2 * accumulate, 1);
    const auto [weights, steps] = fit(2, accumulate);
    EXPECT_EQ(steps, expected_steps) << accumulate;
    EXPECT_TRUE(torch::allclose(weights, expected, 1e-12, 1e-13)) << accumulate;
  }
}

/// A row has some tokens, 1 in the batch's second tensor, and is padded; the loss is a mean over
/// tokens, and so is the gradient of a step.
class TokenModel : public Module {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, is_token] = batch.unpack<2>();
    return (x.matmul(weight).square() * is_token).sum() / is_token.sum();
  }
  double loss_weight(const Batch& batch) const override {
    return batch[size_t{1}].sum().item<double>();
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::SGD>(parameters(), optim::SGDOptions(0.5));
  }
  torch::Tensor weight = register_parameter("weight", torch::full({3}, 0.3, torch::kFloat64));
};

TEST(Training, WithAccumulationTakesTheWeightsOfLossWeight) {
  const auto generator = at::detail::createCPUGenerator(3);
  const auto x = torch::randn({8, 5, 3}, generator, torch::kFloat64);
  const auto lengths = torch::tensor({5, 4, 5, 5, 1, 2, 1, 1});  // 19 tokens, and 5
  const auto is_token = (torch::arange(5) < lengths.unsqueeze(1)).to(torch::kFloat64);
  const auto weight_after = [&](const std::vector<Batch>& batches) {
    TokenModel module;
    for (const auto& batch : batches) {
      (module.training_step(batch, 0) / static_cast<double>(batches.size())).backward();
    }
    return (module.weight - 0.5 * module.weight.grad()).detach();
  };
  const auto by_tokens = weight_after({{x, is_token}});
  const auto by_samples = weight_after(
      {{x.slice(0, 0, 4), is_token.slice(0, 0, 4)}, {x.slice(0, 4, 8), is_token.slice(0, 4, 8)}});
  ASSERT_GT((by_tokens - by_samples).abs().max().item<double>(), 0.01);

  TokenModel module;
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.precision = "64-true";
  config.accumulate_grad_batches = 2;
  Trainer trainer(config);
  trainer.fit(module, DataLoader(std::make_shared<TensorDataset>(std::vector{x, is_token}),
                                 {.batch_size = 4}));
  EXPECT_EQ(trainer.progress().global_step, 1);
  EXPECT_LT((module.weight - by_tokens).abs().max().item<double>(), 1e-12);
}

}  // namespace
}  // namespace trainer::test
