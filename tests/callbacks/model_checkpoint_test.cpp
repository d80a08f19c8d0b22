#include <callbacks/model_checkpoint.h>

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/error.h>

#include <tests/callbacks/callback_fixture.h>
#include <tests/support/file_size_limit.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

using Names = std::set<std::string>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Trains below the current folder, which a test makes its own: 2 batches in an epoch.
class ModelCheckpointTest : public testing::Test {
 protected:
  void fit(const ModelCheckpoint::Init& init, std::vector<double> script, int64_t max_epochs,
           int64_t max_steps = -1, const std::optional<std::string>& ckpt_path = {}) {
    TrainerConfig config = quiet();
    config.logger = logger;
    config.enable_checkpointing = enable_checkpointing;
    config.max_epochs = max_epochs;
    config.max_steps = max_steps;
    config.accumulate_grad_batches = accumulate_grad_batches;
    config.check_val_every_n_epoch = check_val_every_n_epoch;
    config.callbacks = {use<ModelCheckpoint>(init)};
    config.callbacks.insert(config.callbacks.end(), more_callbacks.begin(), more_callbacks.end());
    trainer = std::make_unique<Trainer>(config);
    ScriptedModule module(script);
    trainer->fit(module, make_loader(2), script.empty() ? DataLoader() : make_loader(1), ckpt_path);
  }
  ModelCheckpoint& checkpoint() const { return *callback<ModelCheckpoint>(*trainer); }

  Names saved() const {
    Names names;
    for (const auto& entry : std::filesystem::directory_iterator("runs/version_0/checkpoints")) {
      if (entry.is_directory()) {
        CheckpointReader complete(entry.path());
        names.insert(entry.path().filename().string());
      }
    }
    return names;
  }
  std::string pointer(const std::string& name) const {
    const fs::Path path = fs::Path("runs/version_0/checkpoints") / name;
    return std::filesystem::exists(path) ? read_file(path) : "none";
  }

  TempDir dir;
  WorkingDirectory here{dir.path()};
  std::vector<Spec<Logger>> logger;
  bool enable_checkpointing = true;
  int64_t accumulate_grad_batches = 1;
  int64_t check_val_every_n_epoch = 1;
  std::vector<Spec<Callback>> more_callbacks;
  std::unique_ptr<Trainer> trainer;
};

TEST_F(ModelCheckpointTest, KeepsTheNewestWithoutAMonitor) {
  fit({}, {}, 3);
  EXPECT_EQ(saved(), (Names{"epoch=2-step=6.ckpt"}));
  EXPECT_EQ(pointer("last"), "epoch=2-step=6.ckpt\n");
  EXPECT_EQ(pointer("best"), "epoch=2-step=6.ckpt\n");
  EXPECT_FALSE(checkpoint().best_model_score().has_value());
}

TEST_F(ModelCheckpointTest, SavesWhereItIsListedThoughNoneWouldBeAdded) {
  enable_checkpointing = false;
  fit({}, {}, 1);
  EXPECT_EQ(pointer("last"), "epoch=0-step=2.ckpt\n");
}

TEST_F(ModelCheckpointTest, PointsToTheNewestAsBestWithoutAMonitorWhereverTrainingEnds) {
  fit({}, {}, 3, /*max_steps=*/3);
  EXPECT_EQ(pointer("last"), "epoch=1-step=3.ckpt\n");
  EXPECT_EQ(pointer("best"), "epoch=1-step=3.ckpt\n");
}

TEST_F(ModelCheckpointTest, KeepsTheSmallestAndTheLast) {
  fit({.monitor = "val_loss", .save_top_k = 2}, {3, 1, 2, 4}, 4);
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt", "epoch=3-step=8.ckpt"}));
  EXPECT_EQ(pointer("best"), "epoch=1-step=4.ckpt\n");
  EXPECT_EQ(pointer("last"), "epoch=3-step=8.ckpt\n");
  EXPECT_EQ(checkpoint().best_model_score(), 1.0);
  EXPECT_EQ(checkpoint().best_model_path(), "runs/version_0/checkpoints/epoch=1-step=4.ckpt");
  EXPECT_EQ(checkpoint().last_model_path(), "runs/version_0/checkpoints/epoch=3-step=8.ckpt");
}

TEST_F(ModelCheckpointTest, KeepsTheLargestWhereMoreIsBetter) {
  fit({.monitor = "val_loss", .mode = "max"}, {3, 1, 4, 4}, 4);
  EXPECT_EQ(saved(), (Names{"epoch=2-step=6.ckpt", "epoch=3-step=8.ckpt"}));
  EXPECT_EQ(pointer("best"), "epoch=2-step=6.ckpt\n");
}

TEST_F(ModelCheckpointTest, TakesNaNForTheWorst) {
  for (const std::string mode : {"min", "max"}) {
    std::filesystem::remove_all("runs");
    fit({.monitor = "val_loss", .mode = mode}, {kNaN, 5, kNaN}, 3);
    EXPECT_EQ(pointer("best"), "epoch=1-step=4.ckpt\n") << mode;
    EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt"})) << mode;
  }
}

TEST_F(ModelCheckpointTest, KeepsAllOrNoneButTheLast) {
  fit({.save_top_k = -1}, {}, 3);
  EXPECT_EQ(saved().size(), 3U);
  std::filesystem::remove_all("runs");
  fit({.save_top_k = 0}, {}, 3);
  EXPECT_EQ(saved(), (Names{"epoch=2-step=6.ckpt"}));
}

TEST_F(ModelCheckpointTest, SavesEverySoManyStepsOrEpochs) {
  fit({.save_top_k = -1, .every_n_train_steps = 2}, {}, 4, /*max_steps=*/7);
  EXPECT_EQ(saved(), (Names{"epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt",
                            "epoch=3-step=7.ckpt"}));
  std::filesystem::remove_all("runs");
  fit({.save_top_k = -1, .every_n_epochs = 2}, {1, 1, 1, 1, 1}, 5);
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt", "epoch=3-step=8.ckpt", "epoch=4-step=10.ckpt"}));
}

TEST_F(ModelCheckpointTest, SavesAtStepEdgesOnly) {
  accumulate_grad_batches = 2;
  fit({.save_top_k = -1, .every_n_train_steps = 1}, {}, 2);
  EXPECT_EQ(saved(), (Names{"epoch=0-step=1.ckpt", "epoch=1-step=2.ckpt"}));
}

TEST_F(ModelCheckpointTest, WaitsForTheFirstValidationOfItsMetric) {
  fit({.monitor = "val_loss", .save_top_k = -1, .every_n_train_steps = 1}, {7, 8}, 2);
  // Step 1 has no metric yet; step 2 is saved when validation gave one.
  EXPECT_EQ(saved(), (Names{"epoch=0-step=2.ckpt", "epoch=1-step=3.ckpt", "epoch=1-step=4.ckpt"}));
  EXPECT_EQ(checkpoint().best_model_score(), 7.0);
}

TEST_F(ModelCheckpointTest, RemovesALastThatIsSuperseded) {
  fit({}, {}, 2, /*max_steps=*/1);
  EXPECT_EQ(saved(), (Names{"epoch=0-step=1.ckpt"}));
  fit({}, {}, 2, -1, "last");
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt"}));
  EXPECT_FALSE(std::filesystem::exists("runs/version_1"));
}

TEST_F(ModelCheckpointTest, NumbersNamesThatAreTaken) {
  fit({.filename = "best", .save_top_k = -1}, {}, 3);
  EXPECT_EQ(saved(), (Names{"best.ckpt", "best-v1.ckpt", "best-v2.ckpt"}));
  EXPECT_EQ(pointer("last"), "best-v2.ckpt\n");
}

TEST_F(ModelCheckpointTest, WaitsForTheEpochsThatValidate) {
  check_val_every_n_epoch = 2;
  fit({.monitor = "val_loss", .save_top_k = -1}, {1, 2, 3, 4, 5}, 5);
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt", "epoch=3-step=8.ckpt", "epoch=4-step=10.ckpt"}));
  EXPECT_EQ(pointer("best"), "epoch=1-step=4.ckpt\n");
}

TEST_F(ModelCheckpointTest, LeavesToAnotherWhatIsItsOwn) {
  more_callbacks = {use<ModelCheckpoint>({.monitor = "val_loss", .mode = "max"})};
  fit({}, {3, 4, 2}, 3);
  // The first keeps the newest, the second the largest and, as it never ends unsaved, nothing else.
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4-v1.ckpt", "epoch=2-step=6.ckpt"}));
  EXPECT_EQ(pointer("best"), "epoch=1-step=4-v1.ckpt\n") << "of the one with a monitor";
  EXPECT_EQ(pointer("last"), "epoch=2-step=6.ckpt\n");
}

TEST_F(ModelCheckpointTest, PointsToWhatTheResumedRunHas) {
  fit({.monitor = "val_loss", .save_top_k = -1}, {3, 1, 2}, 3);
  std::filesystem::remove_all("runs/version_0/checkpoints/epoch=0-step=2.ckpt");
  fit({.monitor = "val_loss", .save_top_k = 2}, {3, 1, 2, 4}, 4, -1,
      "runs/version_0/checkpoints/epoch=1-step=4.ckpt");
  // Of the three that it knew, the first is gone and the third was not yet there.
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt", "epoch=2-step=6.ckpt", "epoch=3-step=8.ckpt"}));
  EXPECT_EQ(pointer("best"), "epoch=1-step=4.ckpt\n");
  EXPECT_EQ(pointer("last"), "epoch=3-step=8.ckpt\n");
}

TEST_F(ModelCheckpointTest, RemovesWhatAKilledRunDidNotGetTo) {
  fit({}, {}, 1);
  std::filesystem::copy("runs/version_0/checkpoints/epoch=0-step=2.ckpt", "kept.ckpt",
                        std::filesystem::copy_options::recursive);
  fit({}, {}, 2, -1, "last");
  // As if it had been killed before the first one was removed.
  std::filesystem::rename("kept.ckpt", "runs/version_0/checkpoints/epoch=0-step=2.ckpt");
  write_file("runs/version_0/checkpoints/removals", "epoch=0-step=2.ckpt\nepoch=1-step=4.ckpt\n");
  fit({}, {}, 2, -1, "last");
  EXPECT_EQ(saved(), (Names{"epoch=1-step=4.ckpt"}));
}

TEST(FormatCheckpointName, FillsInValues) {
  const std::map<std::string, double> values = {{"epoch", 3}, {"step", 40}, {"val/loss", 0.256}};
  const auto format = [&](const std::string& text, bool insert = true) {
    return format_checkpoint_name(text, values, insert);
  };
  EXPECT_EQ(format("{epoch}-{step}"), "epoch=3-step=40");
  EXPECT_EQ(format("{epoch:02d}-{val/loss:.2f}"), "epoch=03-val_loss=0.26");
  EXPECT_EQ(format("e{epoch}_{val/loss}", false), "e3_0.256");
  EXPECT_EQ(format("{missing:.1f}"), "missing=0.0");
  EXPECT_EQ(thrown<ConfigError>([&] { format("a{epoch"); }),
            "ModelCheckpoint.filename: 'a{epoch' has a { without a }.");
  EXPECT_EQ(thrown<ConfigError>([&] { format(""); }),
            "ModelCheckpoint.filename: '' gives the name ''. Begin it with a letter.");
  EXPECT_THROW(format("../{epoch}"), ConfigError);
  const std::string wrong = thrown<ConfigError>([&] { format("{val/loss:d}"); });
  EXPECT_EQ(wrong.find("ModelCheckpoint.filename: 'val/loss:d' is no number format ("), 0U);
}

TEST(ModelCheckpointInit, RefusesSettingsThatExcludeEachOther) {
  EXPECT_EQ(thrown<ConfigError>([] {
              ModelCheckpoint::Init{.every_n_train_steps = 1, .every_n_epochs = 1}.validate();
            }),
            "every_n_train_steps, train_time_interval and every_n_epochs exclude each other. Give "
            "one of them.");
  EXPECT_EQ(thrown<ConfigError>([] { ModelCheckpoint::Init{.save_top_k = 2}.validate(); }),
            "save_top_k is 2 without a monitor. Name the metric in monitor, or use -1, 0 or 1.");
}

TEST_F(ModelCheckpointTest, NamesTheMetricsThereAreWhenItsOwnIsMissing) {
  EXPECT_EQ(thrown<UsageError>([&] { fit({.monitor = "val_los"}, {1.0}, 1); }),
            "ModelCheckpoint: monitor: there is no metric 'val_los'. Did you mean 'val_loss'?\n  "
            "Logged so far: train_loss, train_loss_step, val_loss.");
}

/// As with limit_val_batches=0 and a configuration that was made for more.
TEST_F(ModelCheckpointTest, KeepsTheNewestWhereNoValidationGivesItsMetric) {
  fit({.monitor = "val_loss", .save_top_k = 2}, {}, /*max_epochs=*/3);
  EXPECT_EQ(saved(), (Names{"epoch=2-step=6.ckpt"}));
  EXPECT_EQ(pointer("last"), "epoch=2-step=6.ckpt\n");
}

/// From the second epoch on no file may grow beyond a page, as on a full disk.
class FillDisk : public Callback {
 public:
  void on_train_epoch_start(Trainer& trainer, Module&) override {
    if (trainer.progress().current_epoch == 1) {
      full_.emplace(4096);
    }
  }

 private:
  std::optional<FileSizeLimit> full_;
};

TEST_F(ModelCheckpointTest, LosesNothingWhenItCannotWrite) {
  more_callbacks = {use<FillDisk>()};
  const std::string message = thrown<IoError>([&] { fit({}, {}, 2); });
  trainer.reset();  // and with it the limit
  EXPECT_NE(message.find("runs/version_0/checkpoints/epoch=1-step=4.ckpt"), std::string::npos);
  EXPECT_NE(message.find("cannot write: File too large."), std::string::npos) << message;
  EXPECT_EQ(saved(), (Names{"epoch=0-step=2.ckpt"}));
  EXPECT_EQ(pointer("last"), "epoch=0-step=2.ckpt\n");
  EXPECT_EQ(pointer("best"), "epoch=0-step=2.ckpt\n");
}

TEST_F(ModelCheckpointTest, SaysWhenTheRunsFolderCannotBeMade) {
  write_file("runs", "");
  logger = {"CSVLogger", "JSONLLogger", "TensorBoardLogger"};  // told of the failure before setup()
  EXPECT_EQ(thrown<IoError>([&] { fit({}, {}, 1); }),
            "runs: cannot create this folder: Not a directory.\n  A part of the path is a file, "
            "not a folder.");
}

}  // namespace
}  // namespace trainer::test
