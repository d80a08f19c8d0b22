#include <callbacks/early_stopping.h>

#include <algorithm>
#include <limits>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>
#include <trainer/trainer.h>

#include <tests/callbacks/callback_fixture.h>
#include <tests/support/temp_dir.h>

namespace trainer {
namespace {

using test::callback;
using test::make_loader;
using test::quiet;
using test::ScriptedModule;
using test::standard_error_of;
using test::thrown;
using Reason = EarlyStopping::Reason;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TrainerConfig stopping_config(const EarlyStopping::Init& init, int64_t max_epochs) {
  TrainerConfig config = quiet();
  config.num_sanity_val_steps = 2;
  config.max_epochs = max_epochs;
  config.callbacks = {use<EarlyStopping>(init)};
  return config;
}

/// How a fit ended whose validation gives `script`, one value an epoch.
struct Outcome {
  std::shared_ptr<EarlyStopping> early_stopping;
  int64_t epochs;
  bool should_stop;
};

Outcome fit(const EarlyStopping::Init& init, const std::vector<double>& script) {
  Trainer trainer(stopping_config(init, static_cast<int64_t>(script.size())));
  ScriptedModule module(script);
  trainer.fit(module, make_loader(1), make_loader(1));
  return {callback<EarlyStopping>(trainer), trainer.progress().current_epoch, trainer.should_stop};
}

TEST(EarlyStopping, StopsAfterPatienceChecksWithoutImprovement) {
  const auto [stopping, epochs, should_stop] =
      fit({.monitor = "val_loss"}, {5, 4, 4, 3, 3, 6, 3, 2, 1});
  EXPECT_EQ(epochs, 7);
  EXPECT_TRUE(should_stop);
  EXPECT_EQ(stopping->stopped_epoch(), 6);
  EXPECT_EQ(stopping->wait_count(), 3);
  EXPECT_EQ(stopping->best_score(), 3);
  EXPECT_EQ(stopping->stopping_reason(), Reason::kPatienceExhausted);
  EXPECT_EQ(stopping->message(), "val_loss did not improve in the last 3 checks. Best: 3.");
}

TEST(EarlyStopping, LetsTrainingGoOnWhileTheMetricImproves) {
  const auto [stopping, epochs, should_stop] =
      fit({.monitor = "val_loss", .patience = 1}, {5, 4, 3, 2, 1});
  EXPECT_EQ(epochs, 5);
  EXPECT_FALSE(should_stop);
  EXPECT_EQ(stopping->stopping_reason(), Reason::kNotStopped);
  EXPECT_EQ(stopping->message(), "");
  EXPECT_EQ(stopping->stopped_epoch(), 0);
}

TEST(EarlyStopping, AChangeOfMinDeltaIsNoImprovementYet) {
  const EarlyStopping::Init init = {.monitor = "val_loss", .min_delta = 0.5, .patience = 1};
  const auto outcome = fit(init, {5, 4.5, 4});
  EXPECT_EQ(outcome.epochs, 2);
  EXPECT_EQ(outcome.early_stopping->message(),
            "val_loss did not improve by more than 0.5 in the last check. Best: 5.");
  EXPECT_EQ(fit(init, {5, 4.25, 3.5}).epochs, 3);
}

TEST(EarlyStopping, SeesInMaxModeOfTheNegatedMetricWhatItSeesInMinMode) {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<double> script, negated;
    double lowest = kInfinity;
    for (int i = 0; i < 8; ++i) {
      script.push_back(static_cast<double>(random() % 5));
      negated.push_back(-script.back());
    }
    const auto patience = static_cast<int64_t>(1 + random() % 4);
    const double min_delta = static_cast<double>(random() % 2);
    const auto min =
        fit({.monitor = "val_loss", .min_delta = min_delta, .patience = patience}, script);
    const auto max =
        fit({.monitor = "val_loss", .min_delta = min_delta, .patience = patience, .mode = "max"},
            negated);
    EXPECT_EQ(min.epochs, max.epochs);
    EXPECT_EQ(min.early_stopping->wait_count(), max.early_stopping->wait_count());
    EXPECT_EQ(min.early_stopping->best_score(), -max.early_stopping->best_score());
    for (int64_t epoch = 0; epoch < min.epochs; ++epoch) {
      lowest = std::min(lowest, script[static_cast<size_t>(epoch)]);
    }
    if (min_delta == 0) {
      EXPECT_EQ(min.early_stopping->best_score(), lowest);
    }
    EXPECT_LE(min.early_stopping->best_score(), lowest + min_delta);
  }
}

TEST(EarlyStopping, StopsAtOnceWhenTheMetricIsNotFinite) {
  const auto with_nan = fit({.monitor = "val_loss"}, {5, kNan, 4});
  EXPECT_EQ(with_nan.epochs, 2);
  EXPECT_EQ(with_nan.early_stopping->stopping_reason(), Reason::kNonFiniteMetric);
  EXPECT_EQ(with_nan.early_stopping->message(), "val_loss is nan. Best before: 5.");
  EXPECT_EQ(with_nan.early_stopping->best_score(), 5);

  const auto with_infinity = fit({.monitor = "val_loss", .mode = "max"}, {kInfinity, 4});
  EXPECT_EQ(with_infinity.epochs, 1);
  EXPECT_EQ(with_infinity.early_stopping->message(), "val_loss is inf. Best before: none.");
}

TEST(EarlyStopping, CountsNanAsNoImprovementWithoutCheckFinite) {
  const auto outcome = fit({.monitor = "val_loss", .patience = 2, .check_finite = false},
                           {5, kNan, 4, kNan, kNan, 3});
  EXPECT_EQ(outcome.epochs, 5);
  EXPECT_EQ(outcome.early_stopping->best_score(), 4);
  EXPECT_EQ(outcome.early_stopping->stopping_reason(), Reason::kPatienceExhausted);
}

TEST(EarlyStopping, StopsBeyondAThresholdOfEitherSide) {
  const EarlyStopping::Init min = {
      .monitor = "val_loss", .stopping_threshold = 0.1, .divergence_threshold = 10.0};
  const auto reached = fit(min, {5, 0.1, 10, 0.05, 3});
  EXPECT_EQ(reached.epochs, 4);
  EXPECT_EQ(reached.early_stopping->stopping_reason(), Reason::kStoppingThreshold);
  EXPECT_EQ(reached.early_stopping->message(), "val_loss is 0.05, below stopping_threshold 0.1.");
  const auto diverged = fit(min, {5, 10.5, 3});
  EXPECT_EQ(diverged.epochs, 2);
  EXPECT_EQ(diverged.early_stopping->stopping_reason(), Reason::kDivergenceThreshold);
  EXPECT_EQ(diverged.early_stopping->message(), "val_loss is 10.5, above divergence_threshold 10.");

  const EarlyStopping::Init max = {
      .monitor = "val_loss", .mode = "max", .stopping_threshold = 0.9, .divergence_threshold = 0.2};
  EXPECT_EQ(fit(max, {0.5, 0.95}).early_stopping->message(),
            "val_loss is 0.95, above stopping_threshold 0.9.");
  EXPECT_EQ(fit(max, {0.5, 0.1}).early_stopping->message(),
            "val_loss is 0.1, below divergence_threshold 0.2.");
}

TEST(EarlyStopping, TestsTheThresholdsBeforePatience) {
  const auto outcome =
      fit({.monitor = "val_loss", .patience = 1, .divergence_threshold = 3.0}, {1, 4});
  EXPECT_EQ(outcome.early_stopping->stopping_reason(), Reason::kDivergenceThreshold);
  EXPECT_EQ(outcome.early_stopping->wait_count(), 0);
}

TEST(EarlyStopping, TellsWhyItStopsAndOfImprovementsWhenVerbose) {
  const auto text = standard_error_of([] {
    fit({.monitor = "val_loss", .patience = 1}, {2, 2, 2});
  });
  EXPECT_EQ(text.substr(text.find("EarlyStopping")),
            "EarlyStopping stops training: val_loss did not improve in the last check. Best: 2.\n");
  const auto verbose = standard_error_of([] {
    fit({.monitor = "val_loss", .verbose = true}, {2, 1.5});
  });
  EXPECT_NE(verbose.find("EarlyStopping: val_loss improved from none to 2.\n"), std::string::npos);
  EXPECT_NE(verbose.find("EarlyStopping: val_loss improved from 2 to 1.5.\n"), std::string::npos);
}

TEST(EarlyStopping, NamesTheMetricsThereAreWhenItsOwnIsMissing) {
  EXPECT_EQ(
      thrown<UsageError>([] {
        fit({.monitor = "val_los"}, {1, 2});
      }),
      "EarlyStopping, after validation: there is no metric 'val_los'. Did you mean 'val_loss'?\n"
      "  Logged so far: train_loss, train_loss_step, val_loss.\n"
      "  Log it with on_epoch=true; where only training logs it, set check_on_train_epoch_end: "
      "true.");
}

TEST(EarlyStopping, SkipsChecksWithoutItsMetricWhenNotStrict) {
  Outcome outcome;
  const auto text = standard_error_of([&] {
    outcome = fit({.monitor = "accuracy", .patience = 1, .strict = false}, {1, 2, 3});
  });
  EXPECT_EQ(outcome.epochs, 3);
  EXPECT_EQ(outcome.early_stopping->wait_count(), 0);
  EXPECT_EQ(text.substr(text.find("EarlyStopping")),
            "EarlyStopping, after validation: there is no metric 'accuracy'.\n"
            "  Logged so far: train_loss, train_loss_step, val_loss.\n"
            "  Checks are skipped until it is there (strict: false).\n");
}

TEST(EarlyStopping, ChecksTheTrainingEpochWhereARunDoesNotValidate) {
  Trainer trainer(stopping_config({.monitor = "train_loss", .patience = 2}, 10));
  ScriptedModule module;
  trainer.fit(module, make_loader(3));
  EXPECT_EQ(trainer.progress().current_epoch, 3);
}

TEST(EarlyStopping, ChecksTheTrainingEpochWhenAsked) {
  // train_loss_epoch is there at the end of the training epoch only.
  Trainer trainer(stopping_config(
      {.monitor = "train_loss_epoch", .patience = 2, .check_on_train_epoch_end = true}, 10));
  ScriptedModule module({9, 8, 7, 6, 5, 4, 3, 2, 1});
  trainer.fit(module, make_loader(3), make_loader(1));
  EXPECT_EQ(trainer.progress().current_epoch, 3);
  EXPECT_EQ(callback<EarlyStopping>(trainer)->best_score(), 0.5);
}

TEST(EarlyStopping, CountsValidationsNotEpochs) {
  TrainerConfig config = stopping_config({.monitor = "val_loss", .patience = 3}, 10);
  config.val_check_interval = 0.5;
  Trainer trainer(config);
  ScriptedModule module({4, 4, 4, 4});
  trainer.fit(module, make_loader(4), make_loader(1));
  EXPECT_EQ(trainer.progress().current_epoch, 2);

  config.val_check_interval = 1.0;
  config.check_val_every_n_epoch = 2;
  Trainer rare(config);
  ScriptedModule same(std::vector<double>(10, 4.0));
  rare.fit(same, make_loader(1), make_loader(1));
  EXPECT_EQ(rare.progress().current_epoch, 8);
}

TEST(EarlyStopping, StopsInTheMiddleOfAnEpoch) {
  TrainerConfig config = stopping_config({.monitor = "val_loss", .patience = 1}, 10);
  config.val_check_interval = int64_t{2};
  Trainer trainer(config);
  ScriptedModule module({4, 4});
  trainer.fit(module, make_loader(10), make_loader(1));
  EXPECT_EQ(trainer.progress().current_epoch, 0);
  EXPECT_EQ(trainer.progress().global_step, 4);
}

TEST(EarlyStopping, IgnoresTheSanityCheckAndOtherStages) {
  /// Logs NaN unless a training step was taken.
  class Module : public ScriptedModule {
    void validation_step(const Batch&, int64_t) override {
      log("val_loss", progress().global_step > 0 ? 1.0 : kNan);
    }
  };
  Trainer trainer(stopping_config({.monitor = "val_loss"}, 2));
  Module module;
  trainer.fit(module, make_loader(1), make_loader(2));
  const auto stopping = callback<EarlyStopping>(trainer);
  EXPECT_EQ(stopping->stopping_reason(), Reason::kNotStopped);
  EXPECT_EQ(stopping->wait_count(), 1);

  class Data : public DataModule {
    DataLoader val_dataloader() override { return make_loader(1); }
  } data;
  trainer.validate(module, data);
  EXPECT_EQ(stopping->wait_count(), 1);
}

TEST(EarlyStopping, AResumedRunStopsWhereOneThatNeverStoppedDoes) {
  const std::vector<double> script = {5, 4, 4.5, 3, 3.5, 3.25, 3.75, 1, 1, 1};
  const auto whole = fit({.monitor = "val_loss"}, script);
  ASSERT_EQ(whole.epochs, 7);
  for (int64_t first_part = 1; first_part < whole.epochs; ++first_part) {
    const test::TempDir folder;
    TrainerConfig config = stopping_config({.monitor = "val_loss"}, first_part);
    config.enable_checkpointing = true;
    config.default_root_dir = folder.path().string();
    ScriptedModule module(script);
    Trainer(config).fit(module, make_loader(2), make_loader(1));

    config.max_epochs = 10;
    Trainer resumed(config);
    resumed.fit(module, make_loader(2), make_loader(1), "last");
    EXPECT_EQ(resumed.progress().current_epoch, whole.epochs);
    EXPECT_EQ(callback<EarlyStopping>(resumed)->state_dict(), whole.early_stopping->state_dict());
  }
}

TEST(EarlyStopping, StateSurvivesTextWithInfiniteScores) {
  for (const char* mode : {"min", "max"}) {
    const EarlyStopping fresh({.monitor = "x", .mode = mode});
    EarlyStopping loaded({.monitor = "x", .mode = "min"});
    loaded.load_state_dict(nlohmann::json::parse(fresh.state_dict().dump()));
    EXPECT_EQ(loaded.best_score(), std::string(mode) == "min" ? kInfinity : -kInfinity);
    EXPECT_EQ(loaded.state_dict(), fresh.state_dict());
  }
}

TEST(EarlyStopping, KeepsTheConfiguredPatienceWhenResumed) {
  const EarlyStopping saved({.monitor = "x", .patience = 3});
  EarlyStopping resumed({.monitor = "x", .patience = 10});
  const auto text = standard_error_of([&] { resumed.load_state_dict(saved.state_dict()); });
  EXPECT_EQ(text.substr(text.find("EarlyStopping")),
            "EarlyStopping: patience is 10 from here on, it was 3 in the checkpoint.\n");
  EXPECT_EQ(resumed.state_dict().at("patience"), 10);
}

TEST(EarlyStopping, RefusesAMalformedStateAndStaysAsItWas) {
  EarlyStopping stopping({.monitor = "x"});
  const auto before = stopping.state_dict();
  const nlohmann::json good = {
      {"wait_count", 1}, {"best_score", 2.0}, {"stopped_epoch", 0}, {"patience", 3}};
  for (const auto& [key, value] : good.items()) {
    auto bad = good;
    bad[key] = "many";
    EXPECT_THROW(stopping.load_state_dict(bad), CheckpointError) << key;
    bad.erase(key);
    EXPECT_THROW(stopping.load_state_dict(bad), CheckpointError) << key;
  }
  EXPECT_EQ(stopping.state_dict(), before);
  const auto message = thrown<CheckpointError>([&] {
    stopping.load_state_dict({{"wait_count", 1}});
  });
  EXPECT_TRUE(std::regex_match(
      message, std::regex("EarlyStopping: its state in the checkpoint is malformed: "
                          "\\{\"wait_count\":1\\} \\(.*\\)\\.\n  Resume from another "
                          "checkpoint\\.")))
      << message;
}

TEST(EarlyStopping, StateKeyTellsMonitorsApart) {
  EXPECT_EQ(EarlyStopping({.monitor = "val_loss"}).state_key(), "monitor=val_loss,mode=min");
  EXPECT_NE(EarlyStopping({.monitor = "val_loss"}).state_key(),
            EarlyStopping({.monitor = "val_loss", .mode = "max"}).state_key());
}

TEST(EarlyStopping, SettingsAreChecked) {
  const auto wrong = [](const EarlyStopping::Init& init) {
    return thrown<ConfigError>([&] { use<EarlyStopping>(init).create(); });
  };
  EXPECT_NE(wrong({}).find(
                "monitor is empty. Give the name of a metric that the module logs, as val_loss."),
            std::string::npos)
      << wrong({});
  EXPECT_NE(wrong({.monitor = "x", .min_delta = -1}).find("min_delta"), std::string::npos);
  EXPECT_NE(wrong({.monitor = "x", .patience = -1}).find("patience"), std::string::npos);
  EXPECT_NE(wrong({.monitor = "x", .mode = "auto"}).find("mode"), std::string::npos);
  EXPECT_NE(thrown<ConfigError>([] { Spec<Callback>("EarlyStopping").create(); }).find("monitor"),
            std::string::npos);
}

}  // namespace
}  // namespace trainer
