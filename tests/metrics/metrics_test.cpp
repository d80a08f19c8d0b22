// The values of metrics that keep a state, against torchmetrics'; merging, saving, and their way
// through a Trainer.

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/metrics/accuracy.h>
#include <trainer/metrics/mean.h>
#include <trainer/metrics/perplexity.h>

#include <tests/support/process.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

using json = nlohmann::json;

/// Nested lists as a tensor of doubles or of integers.
torch::Tensor tensor_of(const json& list) {
  if (!list.is_array()) {
    return list.is_number_float() ? torch::tensor(list.get<double>(), torch::kFloat64)
                                  : torch::tensor(list.get<int64_t>());
  }
  std::vector<torch::Tensor> rows;
  for (const auto& row : list) {
    rows.push_back(tensor_of(row));
  }
  return torch::stack(rows);
}

/// A metric, and how it is given a batch.
struct Given {
  std::shared_ptr<metrics::Metric> metric;
  std::function<void(const torch::Tensor&, const torch::Tensor&)> update;
};

template <class M>
Given given(std::shared_ptr<M> metric) {
  return {metric,
          [metric](const torch::Tensor& a, const torch::Tensor& b) { metric->update(a, b); }};
}

Given make(const json& golden) {
  const std::string name = golden["metric"];
  const json& args = golden["args"];
  std::optional<int64_t> ignore_index;
  if (args.contains("ignore_index")) {
    ignore_index = args["ignore_index"].get<int64_t>();
  }
  if (name == "Accuracy") {
    const std::string average = args["average"];
    return given(std::make_shared<metrics::Accuracy>(
        metrics::AccuracyOptions{.num_classes = args["num_classes"],
                                 .average = average == "micro"   ? metrics::Average::kMicro
                                            : average == "macro" ? metrics::Average::kMacro
                                                                 : metrics::Average::kWeighted,
                                 .top_k = args.value("top_k", 1),
                                 .ignore_index = ignore_index}));
  }
  if (name == "BinaryAccuracy") {
    return given(std::make_shared<metrics::BinaryAccuracy>(args["threshold"].get<double>()));
  }
  if (name == "Perplexity") {
    return given(std::make_shared<metrics::Perplexity>(ignore_index));
  }
  return given(std::make_shared<metrics::Mean>());
}

json golden_metrics() {
  std::ifstream file(tests_dir() / "golden/metrics.json");
  return json::parse(file);
}

void expect_equal(const torch::Tensor& value, double expected, const std::string& of) {
  EXPECT_NEAR(value.item<double>(), expected, 1e-6 * std::max(1.0, std::abs(expected))) << of;
}

TEST(Metrics, EqualThoseOfTorchmetrics) {
  const json all = golden_metrics();
  ASSERT_EQ(all.size(), 13U);
  for (const json& golden : all) {
    const std::string name = golden["metric"].get<std::string>() + golden["args"].dump();
    const auto [metric, update] = make(golden);
    for (size_t i = 0; i < golden["batches"].size(); ++i) {
      update(tensor_of(golden["batches"][i][0]), tensor_of(golden["batches"][i][1]));
      expect_equal(metric->batch_value(), golden["batch_values"][i], name + " of a batch");
    }
    expect_equal(metric->compute(), golden["value"], name);
    metric->reset();
    update(tensor_of(golden["batches"][0][0]), tensor_of(golden["batches"][0][1]));
    expect_equal(metric->compute(), golden["batch_values"][0], name + " after reset");
  }
}

TEST(Metrics, SaveAndRestoreTheirState) {
  for (const json& golden : golden_metrics()) {
    const auto [metric, update] = make(golden);
    const auto [restored, update_restored] = make(golden);
    const auto batch = [&](size_t i, size_t k) { return tensor_of(golden["batches"][i][k]); };
    update(batch(0, 0), batch(0, 1));
    restored->load_state_dict(json::parse(metric->state_dict().dump()));
    for (size_t i = 1; i < golden["batches"].size(); ++i) {
      update(batch(i, 0), batch(i, 1));
      update_restored(batch(i, 0), batch(i, 1));
    }
    EXPECT_EQ(restored->compute().item<double>(), metric->compute().item<double>())
        << golden["metric"];
  }
  metrics::Mean mean;
  EXPECT_EQ(thrown<CheckpointError>([&] { mean.load_state_dict(json::parse("[[1.0]]")); }),
            "Mean: the checkpoint holds the state of another metric: [[1.0]].");
}

TEST(Metrics, OfNothingAreNotANumber) {
  EXPECT_TRUE(std::isnan(metrics::Mean().compute().item<double>()));
  metrics::Accuracy accuracy({.num_classes = 3});
  accuracy.update(torch::zeros({0, 3}), torch::zeros({0}, torch::kInt64));
  EXPECT_TRUE(std::isnan(accuracy.compute().item<double>()));
  metrics::Mean mean;
  mean.update(torch::tensor({1.0, 3.0}));
  mean.update(torch::zeros({0}));
  EXPECT_EQ(mean.compute().item<double>(), 2) << "an empty batch adds nothing";
}

TEST(Metrics, RefuseWhatDoesNotFit) {
  metrics::Accuracy accuracy({.num_classes = 3});
  EXPECT_EQ(thrown<UsageError>([&] {
              accuracy.update(torch::zeros({2, 4}), torch::zeros({2}, torch::kInt64));
            }),
            "Accuracy: predictions of shape [2, 4] and targets of shape [2] do not fit 3 classes. "
            "Give scores [batch, classes, ...] and targets [batch, ...].");
  EXPECT_THROW(metrics::Accuracy({.num_classes = 1}), UsageError);
  EXPECT_THROW(
      metrics::Accuracy({.num_classes = 4, .average = metrics::Average::kMacro, .top_k = 2}),
      UsageError);
  EXPECT_THROW(metrics::BinaryAccuracy().update(torch::zeros({2}), torch::zeros({3})), UsageError);
  EXPECT_THROW(metrics::Perplexity().update(torch::zeros({2, 3}), torch::zeros({2, 3})),
               UsageError);
}

TEST(Perplexity, TakesALossThatIsThereAlready) {
  torch::manual_seed(0);
  metrics::Perplexity from_logits, from_loss;
  for (const int64_t size : {4, 2}) {
    const auto logits = torch::randn({size, 5, 7});
    const auto targets = torch::randint(7, {size, 5});
    from_logits.update(logits, targets);
    from_loss.update_mean(
        torch::nn::functional::cross_entropy(logits.flatten(0, 1), targets.flatten()), size * 5);
  }
  EXPECT_NEAR(from_loss.compute().item<double>(), from_logits.compute().item<double>(), 1e-5);
}

/// Logs the accuracy of each step and of each epoch.
class Measured : public ToyModule {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    auto [x, y] = batch.unpack<2>();
    train_accuracy_->update(forward(x), y);
    log("train_accuracy", *train_accuracy_, {.on_epoch = true});
    return ToyModule::training_step(batch, batch_idx);
  }
  void validation_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto logits = forward(x);
    val_accuracy_->update(logits, y);
    log("val_accuracy", *val_accuracy_);
    log("mean_accuracy", (logits.argmax(1) == y).to(torch::kFloat64).mean());
  }

 private:
  std::shared_ptr<metrics::Accuracy> train_accuracy_ = register_module(
      "train_accuracy", std::make_shared<metrics::Accuracy>(metrics::AccuracyOptions{
                            .num_classes = 2, .average = metrics::Average::kMacro}));
  std::shared_ptr<metrics::Accuracy> val_accuracy_ = register_module(
      "val_accuracy",
      std::make_shared<metrics::Accuracy>(metrics::AccuracyOptions{.num_classes = 2}));
};

TEST(Metrics, AreComputedAndResetByTheTrainer) {
  seed_everything(1);
  Measured module;
  ToyData data;
  TrainerConfig config = quiet();
  config.num_sanity_val_steps = 2;
  config.max_epochs = 3;
  Trainer trainer(config);
  trainer.fit(module, data);
  const auto metrics = trainer.callback_metrics();
  EXPECT_TRUE(metrics.contains("train_accuracy_epoch"));
  EXPECT_TRUE(metrics.contains("train_accuracy_step"));
  EXPECT_NEAR(metrics.at("val_accuracy"), metrics.at("mean_accuracy"), 1e-12)
      << "neither the sanity check nor earlier epochs are in it";
  EXPECT_EQ(trainer.validate(module, data).at("val_accuracy"), metrics.at("val_accuracy"));
  trainer.fit(module, data);  // what was made in inference mode takes part in training again
  (*std::dynamic_pointer_cast<metrics::Accuracy>(
       module.named_modules("", /*include_self=*/false)["val_accuracy"]))
      .update(torch::zeros({3}, torch::kInt64), torch::zeros({3}, torch::kInt64));
}

TEST(Metrics, BeginEachFitAnew) {
  seed_everything(1);
  ToyData data;
  TrainerConfig config = quiet();
  config.max_steps = 5;  // within an epoch
  const auto accuracy_after_a_step = [&](Measured& module) {
    Trainer trainer(config);
    trainer.fit(module, data);
    return trainer.callback_metrics().at("train_accuracy_epoch");
  };
  Measured module;
  auto metric = module.named_modules("", /*include_self=*/false)["train_accuracy"];
  std::dynamic_pointer_cast<metrics::Accuracy>(metric)->update(torch::zeros({900}, torch::kInt64),
                                                               torch::ones({900}, torch::kInt64));
  EXPECT_GT(accuracy_after_a_step(module), 0.1) << "what was there before does not count";
}

TEST(Metrics, ThatAreNotRegisteredAreRefused) {
  class Unregistered : public ToyModule {
   public:
    void validation_step(const Batch&, int64_t) override { log("mean", mean_); }

   private:
    metrics::Mean mean_;
  };
  Unregistered module;
  ToyData data;
  EXPECT_EQ(thrown<UsageError>([&] { Trainer(quiet()).validate(module, data); }),
            "log('mean'): the metric is not registered in Unregistered, so that checkpoints would "
            "lack its state. Make it with register_module().");
}

}  // namespace
}  // namespace trainer::test
