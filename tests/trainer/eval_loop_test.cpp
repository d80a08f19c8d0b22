#include <trainer/eval_loop.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Looks at the state of things in each evaluation step.
class Watching : public ToyModule {
 public:
  Watching() : frozen(register_module("frozen", torch::nn::Dropout(0.5))) { frozen->eval(); }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    look();
    batch_indices.push_back(batch_idx);
    log("val_loss", batch[size_t{0}].mean());
  }
  torch::Tensor predict_step(const Batch& batch, int64_t) override {
    look();
    return batch[size_t{0}];
  }
  void look() {
    EXPECT_FALSE(is_training());
    EXPECT_FALSE(torch::GradMode::is_enabled());
    was_inference = c10::InferenceMode::is_enabled();
    torch::rand({3});  // must not shift the numbers that training draws
  }
  torch::nn::Dropout frozen;
  std::vector<int64_t> batch_indices;
  bool was_inference = false;
};

TEST(EvalLoop, LeavesModesGradientsAndRandomNumbersAsTheyWere) {
  for (const bool inference_mode : {true, false}) {
    seed_everything(3);
    Watching module;
    ToyData data;
    TrainerConfig config = quiet();
    config.inference_mode = inference_mode;
    Trainer trainer(config);
    const std::string before = get_rng_state();
    trainer.validate(module, data);
    EXPECT_EQ(module.was_inference, inference_mode);
    EXPECT_EQ(get_rng_state(), before);
    EXPECT_TRUE(module.is_training());
    EXPECT_FALSE(module.frozen->is_training()) << "it was in eval mode";
    EXPECT_TRUE(torch::GradMode::is_enabled());
    trainer.predict(module, data);
    EXPECT_EQ(module.was_inference, inference_mode);
    EXPECT_TRUE(module.is_training());
    EXPECT_FALSE(module.frozen->is_training());
  }
}

TEST(EvalLoop, UsesNoInferenceModeWithinFit) {
  Watching module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  Trainer(config).fit(module, data);
  EXPECT_FALSE(module.was_inference) << "its tensors could not take part in training";
}

TEST(EvalLoop, TakesTheBatchesThatTheLimitLeaves) {
  ToyData data;  // 4 batches
  const auto batches = [&](const BatchLimit& limit) {
    Watching module;
    TrainerConfig config = quiet();
    config.limit_val_batches = limit;
    Trainer(config).validate(module, data);
    return module.batch_indices.size();
  };
  EXPECT_EQ(batches(1.0), 4U);
  EXPECT_EQ(batches(int64_t{1}), 1U);
  EXPECT_EQ(batches(0.5), 2U);
  EXPECT_EQ(batches(int64_t{9}), 4U);
}

TEST(EvalLoop, GivesModesBackWhereAStepThrows) {
  class Throwing : public Watching {
   public:
    void validation_step(const Batch&, int64_t) override { throw std::runtime_error("here"); }
  };
  Throwing module;
  ToyData data;
  EXPECT_EQ(thrown<std::runtime_error>([&] { Trainer(quiet()).validate(module, data); }), "here");
  EXPECT_TRUE(module.is_training());
  EXPECT_FALSE(module.frozen->is_training());
  EXPECT_TRUE(torch::GradMode::is_enabled());
}

/// Keeps the rows that loggers get.
class Rows : public Logger {
 public:
  struct Row {
    int64_t step;
    std::map<std::string, double> values;
  };
  void setup(const fs::Path&) override {}
  void log_metrics(const Metrics& metrics, int64_t step) override {
    rows.push_back({step, {metrics.begin(), metrics.end()}});
  }
  static inline std::vector<Row> rows;
};

/// Rows of their own, counted by the batches that were evaluated, as in Lightning.
TEST(EvalLoop, LogsStepValuesOfEachBatch) {
  class Stepwise : public ToyModule {
   public:
    void validation_step(const Batch&, int64_t batch_idx) override {
      log("each", static_cast<double>(batch_idx), {.on_step = true, .on_epoch = false});
      log("both", 2.0, {.on_step = true, .on_epoch = true});
    }
  } module;
  ToyData data;  // 4 batches to validate on
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  TrainerConfig config = quiet();
  config.logger = {use<Rows>()};
  config.max_epochs = 2;
  config.log_every_n_steps = 0;
  Rows::rows.clear();
  Trainer trainer(config);
  trainer.fit(module, data);
  int64_t num_seen = 0;
  for (const auto& row : Rows::rows) {
    if (row.values.contains("each")) {
      EXPECT_EQ(row.step, num_seen);
      EXPECT_EQ(row.values.at("each"), static_cast<double>(num_seen % 4));
      EXPECT_EQ(row.values.at("both_step"), 2.0);
      EXPECT_FALSE(row.values.contains("both_epoch"));
      ++num_seen;
    }
  }
  EXPECT_EQ(num_seen, 8);
  const auto metrics = trainer.callback_metrics();
  EXPECT_EQ(metrics.at("each"), 3.0);
  EXPECT_EQ(metrics.at("both_epoch"), 2.0);
  EXPECT_FALSE(metrics.contains("each_epoch"));
}

TEST(EvalLoop, TakesWhatACallbackLogs) {
  class Logging : public Callback {
    void on_validation_batch_end(Trainer& t, Module&, const Batch& batch, int64_t) override {
      t.log("samples", static_cast<double>(batch.size()), {.reduce_fx = ReduceFx::kSum});
    }
    void on_test_epoch_end(Trainer& t, Module&) override { t.log("done", 1.0); }
    void on_train_end(Trainer& t, Module&) override {
      EXPECT_EQ(thrown<UsageError>([&] { t.log("late", 1.0); }),
                "log('late'): cannot log in on_train_end. Log in training_step, validation_step, "
                "test_step or an epoch hook.");
    }
  };
  ToyModule module;
  ToyData data;
  TrainerConfig config = quiet();
  config.callbacks = {use<Logging>()};
  config.num_sanity_val_steps = 2;
  config.max_epochs = 1;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.validation_metrics().at("samples"), 50);
  EXPECT_EQ(trainer.test(module, data).at("done"), 1);
  EXPECT_EQ(thrown<UsageError>([&] { trainer.log("x", 1.0); }),
            "Trainer::log('x'): nothing runs. Log in a hook of a training, validation or test "
            "batch or epoch.");
}

TEST(EvalLoop, TellsWhichLoaderOfACombinedOneABatchIsFrom) {
  class Data : public ToyData {
   public:
    DataLoader val_dataloader() override {
      std::vector<DataLoader> loaders;
      loaders.push_back(ToyData::val_dataloader());
      loaders.push_back(ToyData::test_dataloader());
      return DataLoader(
          std::make_unique<CombinedLoader>(std::move(loaders), CombineMode::kSequential));
    }
  } data;
  class Remembering : public ToyModule {
   public:
    void validation_step(const Batch&, int64_t) override {
      seen.push_back(progress().dataloader_idx);
    }
    std::vector<int64_t> seen;
  } module;
  Trainer(quiet()).validate(module, data);
  EXPECT_EQ(module.seen, (std::vector<int64_t>{0, 0, 0, 0, 1, 1, 1, 1}));
}

TEST(EvalLoop, TakesALoaderWithoutADataModule) {
  ToyModule module;
  ToyData data;
  Trainer trainer(quiet());
  EXPECT_EQ(trainer.validate(module, data.val_dataloader()), trainer.validate(module, data));
  EXPECT_EQ(trainer.test(module, data.test_dataloader()), trainer.test(module, data));
  EXPECT_EQ(trainer.predict(module, data.predict_dataloader()).size(), 4U);
}

TEST(NumBatches, OfAStreamAreUnknown) {
  std::vector<EvalData> data(2);
  data[0].num_batches = 3;
  data[1].num_batches = 4;
  EXPECT_EQ(num_batches(data), 7);
  data[1].num_batches = kAllBatches;
  EXPECT_EQ(num_batches(data), kAllBatches);
  EXPECT_EQ(num_batches({}), 0);
}

}  // namespace
}  // namespace trainer::test
