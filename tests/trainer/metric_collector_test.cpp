#include <trainer/metric_collector.h>

#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <strategies/single_device.h>
#include <trainer/core/error.h>
#include <trainer/metrics/mean.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;
using Scope = MetricCollector::Scope;
using Values = std::map<std::string, double>;

constexpr double kInf = std::numeric_limits<double>::infinity();

Values of(const Metrics& metrics) { return {metrics.begin(), metrics.end()}; }

Values epoch_of(MetricCollector& metrics) {
  SingleDevice strategy;
  Values values;
  for (const auto& value : metrics.reduce_epoch(strategy)) {
    values[value.name] = value.value;
  }
  return values;
}

TEST(MetricCollector, LogsTheStepInTrainingAndTheEpochElsewhere) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step", 4);
  metrics.log("loss", 1.5, {});
  EXPECT_EQ(of(metrics.step_metrics()), (Values{{"loss", 1.5}}));
  EXPECT_TRUE(epoch_of(metrics).empty());
  for (const auto scope : {Scope::kEvalBatch, Scope::kEpoch}) {
    MetricCollector other;
    other.enter(scope, "a hook", 4);
    other.log("loss", 1.5, {});
    EXPECT_TRUE(other.step_metrics().empty());
    EXPECT_EQ(epoch_of(other), (Values{{"loss", 1.5}}));
  }
}

TEST(MetricCollector, NamesStepAndEpochWhereBothAreLogged) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step", 1);
  metrics.log("loss", 1.0, {.on_epoch = true, .prog_bar = true});
  metrics.log("loss", 3.0, {.on_epoch = true, .prog_bar = true});
  metrics.log("hidden", 7.0, {.logger = false});
  EXPECT_EQ(of(metrics.step_metrics()), (Values{{"loss_step", 3.0}}));
  EXPECT_EQ(of(metrics.progress_bar_metrics()), (Values{{"loss_step", 3.0}}));
  EXPECT_EQ(of(metrics.new_values()), (Values{{"loss", 3.0}, {"loss_step", 3.0}, {"hidden", 7.0}}));
  EXPECT_EQ(epoch_of(metrics), (Values{{"loss_epoch", 2.0}}));
  SingleDevice strategy;
  EXPECT_EQ(metrics.reduce_epoch(strategy).at(0).plain_name, "loss");
}

TEST(MetricCollector, WeightsMeansBySamples) {
  MetricCollector metrics;
  // Quarters of small numbers: every sum is exact, so the mean is the rounded quotient.
  double sum = 0;
  double weight = 0;
  for (int64_t batch = 1; batch <= 100; ++batch) {
    const double value = 0.25 * static_cast<double>(batch % 13);
    const int64_t samples = batch % 7 + 1;
    metrics.enter(Scope::kEvalBatch, "validation_step", samples);
    metrics.log("mean", torch::tensor(value), {});
    metrics.log("weighted", value, {.batch_size = 3});
    metrics.log("sum", value, {.reduce_fx = ReduceFx::kSum});
    sum += value * static_cast<double>(samples);
    weight += static_cast<double>(samples);
  }
  const auto values = epoch_of(metrics);
  EXPECT_EQ(values.at("mean"), sum / weight);
  EXPECT_EQ(values.at("sum") / 100, values.at("weighted"));
}

TEST(MetricCollector, ReducesByMinimumMaximumAndSum) {
  MetricCollector metrics;
  metrics.enter(Scope::kEvalBatch, "validation_step", 5);
  for (const double value : {2.0, -3.0, 1.0}) {
    metrics.log("min", value, {.reduce_fx = ReduceFx::kMin});
    metrics.log("max", torch::tensor(value, torch::kFloat64), {.reduce_fx = ReduceFx::kMax});
    metrics.log("sum", torch::tensor({static_cast<int64_t>(value)}), {.reduce_fx = ReduceFx::kSum});
  }
  EXPECT_EQ(epoch_of(metrics), (Values{{"min", -3.0}, {"max", 2.0}, {"sum", 0.0}}));
}

TEST(MetricCollector, LetsNoReductionHideANaN) {
  for (const auto fx : {ReduceFx::kMean, ReduceFx::kSum, ReduceFx::kMin, ReduceFx::kMax}) {
    for (size_t at = 0; at < 3; ++at) {
      MetricCollector metrics;
      metrics.enter(Scope::kEvalBatch, "validation_step", 1);
      for (size_t i = 0; i < 3; ++i) {
        metrics.log("x", i == at ? std::nan("") : 1.0, {.reduce_fx = fx});
      }
      EXPECT_TRUE(std::isnan(epoch_of(metrics).at("x"))) << static_cast<int>(fx) << " at " << at;
    }
  }
}

TEST(MetricCollector, BeginsEachEpochAnew) {
  MetricCollector metrics;
  metrics.enter(Scope::kEvalBatch, "validation_step", 1);
  metrics.log("x", 1.0, {});
  metrics.log("low", 1.0, {.reduce_fx = ReduceFx::kMin});
  metrics.reset_epoch();
  EXPECT_TRUE(epoch_of(metrics).empty());
  EXPECT_TRUE(metrics.step_metrics().empty());
  metrics.log("low", 2.0, {.reduce_fx = ReduceFx::kMin});
  EXPECT_EQ(epoch_of(metrics), (Values{{"low", 2.0}}));
}

TEST(MetricCollector, TellsWhatWasLoggedSinceItWasAskedToForget) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step", 1);
  metrics.log("a", 1.0, {});
  metrics.log("b", 2.0, {});
  metrics.forget_new_values();
  EXPECT_TRUE(metrics.new_values().empty());
  metrics.log("b", 3.0, {});
  EXPECT_EQ(of(metrics.new_values()), (Values{{"b", 3.0}}));
  EXPECT_EQ(of(metrics.step_metrics()), (Values{{"a", 1.0}, {"b", 3.0}}));
}

TEST(MetricCollector, RefusesANameWithOtherOptions) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step", 1);
  metrics.log("x", 1.0, {});
  metrics.log("x", 1.0, {.on_step = true, .on_epoch = false, .batch_size = 9});  // means the same
  const std::string expected =
      "log('x') in on_train_epoch_end: logged before with other options (on_step, on_epoch, "
      "prog_bar, logger or reduce_fx). Use one set of options for a name, or two names.";
  metrics.enter(Scope::kEpoch, "on_train_epoch_end");
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", 1.0, {}); }), expected);
  metrics.enter(Scope::kTrainBatch, "training_step", 1);
  for (const LogOptions& options :
       {LogOptions{.on_epoch = true}, LogOptions{.prog_bar = true}, LogOptions{.logger = false},
        LogOptions{.reduce_fx = ReduceFx::kMax}}) {
    EXPECT_THROW(metrics.log("x", 1.0, options), UsageError);
  }
}

TEST(MetricCollector, TakesOneNumberOnly) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step", 1);
  EXPECT_EQ(thrown<UsageError>([&] {
              metrics.log("x", torch::zeros({2, 3}), {});
            }),
            "log('x') in training_step: the value is a tensor of shape [2, 3], not one number. Log "
            "value.mean(), say.");
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", torch::Tensor(), {}); }),
            "log('x') in training_step: the value is an undefined tensor, not one number. Log "
            "value.mean(), say.");
  EXPECT_EQ(
      thrown<UsageError>([&] { metrics.log("x", torch::zeros({}, torch::kComplexFloat), {}); }),
      "log('x') in training_step: the value is complex, not one number. Log value.mean(), "
      "say.");
  metrics.log("one", torch::full({1, 1}, 2.0, torch::kBFloat16), {});
  EXPECT_EQ(of(metrics.step_metrics()), (Values{{"one", 2.0}}));
}

TEST(MetricCollector, RefusesHooksThatCannotLog) {
  MetricCollector metrics;
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", 1.0, {}); }),
            "log('x'): cannot log in code outside of a run. Log in training_step, validation_step, "
            "test_step or an epoch hook.");
  metrics.enter(Scope::kForbidden, "on_train_end");
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", torch::zeros({}), {}); }),
            "log('x'): cannot log in on_train_end. Log in training_step, validation_step, "
            "test_step or an epoch hook.");
  metrics.enter(Scope::kEpoch, "on_train_epoch_end");
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", 1.0, {.on_step = true}); }),
            "log('x'): on_step=true in on_train_epoch_end, which runs once an epoch. Leave on_step "
            "out.");
}

TEST(MetricCollector, GoesOnFromItsState) {
  MetricCollector metrics;
  const auto log_some = [](MetricCollector& to, double value) {
    to.enter(Scope::kTrainBatch, "training_step", 3);
    to.log("mean", value, {.on_epoch = true});
    to.log("nan", std::nan(""), {.on_epoch = true});
    to.log("inf", -kInf, {.on_epoch = true, .reduce_fx = ReduceFx::kSum});
    to.log("low", value, {.on_epoch = true, .logger = false, .reduce_fx = ReduceFx::kMin});
    to.log("third", value / 3, {.prog_bar = true});
  };
  log_some(metrics, 1.0 / 7);
  MetricCollector resumed;
  resumed.load_state_dict(nlohmann::json::parse(metrics.state_dict({}).dump()), {});
  EXPECT_EQ(resumed.state_dict({}), metrics.state_dict({}));
  for (auto* collector : {&metrics, &resumed}) {
    log_some(*collector, -2.0 / 7);
    collector->log("new", 1.0, {});
  }
  EXPECT_EQ(resumed.state_dict({}), metrics.state_dict({}));
  const auto values = epoch_of(resumed);
  EXPECT_EQ(values.at("mean_epoch"), epoch_of(metrics).at("mean_epoch"));
  EXPECT_TRUE(std::isnan(values.at("nan_epoch")));
  EXPECT_EQ(values.at("inf_epoch"), -kInf);
  EXPECT_EQ(values.at("low_epoch"), -2.0 / 7);
  EXPECT_EQ(testing::PrintToString(resumed.step_metrics()),  // NaN is never equal to itself
            testing::PrintToString(metrics.step_metrics()));
}

/// Rank 0 of two, whose other rank sends `other`.
class OneOfTwo : public SingleDevice {
 public:
  int world_size() const override { return 2; }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    ++collectives;
    sent = text;
    return {text, other.empty() ? text : other};
  }
  std::string other, sent;
  int collectives = 0;
};

TEST(MetricCollector, ReducesOverRanksInOneCollective) {
  struct Rank {
    MetricCollector collector;
    metrics::Mean metric;
    void log(double value, int64_t samples) {
      collector.enter(Scope::kEvalBatch, "validation_step", samples);
      collector.log("mean", value, {});
      collector.log("sum", value, {.reduce_fx = ReduceFx::kSum});
      collector.log("min", value, {.reduce_fx = ReduceFx::kMin});
      collector.log("max", value, {.reduce_fx = ReduceFx::kMax});
      metric.update(torch::tensor({value}), static_cast<double>(samples) + 1);
      collector.log("metric", metric, {});
    }
  };
  Rank first, second, whole;
  for (int64_t i = 0; i < 7; ++i) {
    const double value = 0.25 * static_cast<double>(i * i % 5);
    (i < 3 ? first : second).log(value, i);  // the first batch is empty
    whole.log(value, i);
  }
  OneOfTwo strategy;
  second.collector.reduce_epoch(strategy);
  strategy.other = strategy.sent;
  strategy.collectives = 0;
  Values reduced;
  for (const auto& value : first.collector.reduce_epoch(strategy)) {
    reduced[value.name] = value.value;
  }
  EXPECT_EQ(strategy.collectives, 1);
  EXPECT_EQ(reduced, epoch_of(whole.collector));
  EXPECT_EQ(reduced.size(), 5U);
}

TEST(MetricCollector, LeavesEmptyBatchesOut) {
  MetricCollector metrics;
  for (const auto& [value, samples] : {std::pair{2.0, 4}, std::pair{std::nan(""), 0}}) {
    metrics.enter(Scope::kEvalBatch, "validation_step", samples);
    metrics.log("number", value, {});
    metrics.log("tensor", torch::tensor(value), {});
    metrics.log("min", value, {.reduce_fx = ReduceFx::kMin});
  }
  EXPECT_EQ(epoch_of(metrics), (Values{{"number", 2}, {"tensor", 2}, {"min", 2}}));
}

TEST(MetricCollector, RefusesNamesThatBecomeTheSame) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step");
  metrics.log("loss", 1.0, {.on_epoch = true});
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("loss_step", 1.0, {}); }),
            "log('loss_step') in training_step: its values are called 'loss_step', as those of "
            "'loss'. Rename one.");
}

TEST(MetricCollector, RefusesTheNamesOfTheLoggersOwnColumns) {
  MetricCollector metrics;
  metrics.enter(Scope::kTrainBatch, "training_step");
  EXPECT_EQ(thrown<UsageError>([&] { metrics.log("step", 1.0, {}); }),
            "log('step') in training_step: every row has a column of that name. Use another name.");
  EXPECT_THROW(metrics.log("epoch", 1.0, {}), UsageError);
}

TEST(MetricCollector, RefusesOneNameForTwoLoaders) {
  MetricCollector metrics;
  metrics.enter(Scope::kEvalBatch, "validation_step");
  const LogOptions plain{.add_dataloader_idx = false};
  for (int epoch = 0; epoch < 2; ++epoch) {
    metrics.set_suffix("/dataloader_idx_0");
    metrics.log("x", 1.0, plain);
    metrics.log("x", 2.0, plain);
    metrics.set_suffix("/dataloader_idx_1");
    EXPECT_EQ(thrown<UsageError>([&] { metrics.log("x", 3.0, plain); }),
              "log('x') in validation_step: logged before from another loader, with "
              "add_dataloader_idx=false. Use a name for each loader.");
    metrics.log("y", 3.0, plain);
    metrics.reset_epoch();
  }
}

TEST(MetricCollector, RefusesOneNameForTwoMetrics) {
  MetricCollector collector;
  metrics::Mean one, two;
  collector.enter(Scope::kEvalBatch, "validation_step");
  collector.log("mean", one, {});
  EXPECT_EQ(thrown<UsageError>([&] { collector.log("mean", two, {}); }),
            "log('mean') in validation_step: logged before from another metric, or as a number. "
            "Use two names.");
  EXPECT_THROW(collector.log("mean", 1.0, {}), UsageError);
  collector.set_suffix("/dataloader_idx_1");
  EXPECT_EQ(thrown<UsageError>([&] { collector.log("mean", one, {}); }),
            "log('mean/dataloader_idx_1') in validation_step: the same metric is logged as 'mean'. "
            "Use a metric for each name, and for each of several loaders.");
}

}  // namespace
}  // namespace trainer
