// What the Trainer does when something goes wrong: with the loss, the data, or code of the user.

#include <limits>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Its loss is what a test makes of the input.
class AnyLoss : public Module {
 public:
  explicit AnyLoss(std::function<torch::Tensor(const torch::Tensor&)> loss)
      : loss_(std::move(loss)), weight_(register_parameter("weight", torch::ones({1}))) {}
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    return loss_(weight_ * batch[size_t{0}]);
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(0.1));
  }

 private:
  std::function<torch::Tensor(const torch::Tensor&)> loss_;
  torch::Tensor weight_;
};

DataLoader load(const torch::Tensor& x) {
  return {std::make_shared<TensorDataset>(std::vector<torch::Tensor>{x}), {.batch_size = 4}};
}

template <class E>
std::string fit_error(const std::function<torch::Tensor(const torch::Tensor&)>& loss,
                      const torch::Tensor& x = torch::ones({8, 2})) {
  AnyLoss module(loss);
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  Trainer trainer(config);
  return thrown<E>([&] { trainer.fit(module, load(x)); });
}

const std::string kResume =
    "\n  What was saved before is untouched. Clip gradients (trainer.gradient_clip_val; a resumed "
    "run takes it), or begin anew with a lower learning rate, or set "
    "trainer.check_finite_loss=false to go on regardless.";

TEST(NonFiniteLoss, NamesTheTensorAndTheSample) {
  auto x = torch::ones({12, 2});
  x[6][1] = std::numeric_limits<float>::quiet_NaN();
  x[7][0] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(fit_error<NonFiniteError>([](const auto& y) { return y.mean(); }, x),
            "the loss is NaN at epoch 0, batch 1, after 1 optimizer steps. Tensor 0 of the batch "
            "has NaN or infinite values in 2 of 4 samples, the first is sample 2: clean the data." +
                kResume);
}

TEST(NonFiniteLoss, OfFiniteDataIsReportedToo) {
  EXPECT_EQ(fit_error<NonFiniteError>([](const auto& y) { return y.mean() / 0; }),
            "the loss is infinite at epoch 0, batch 0, after 0 optimizer steps. The batch itself "
            "is finite." +
                kResume);
}

TEST(NonFiniteLoss, IsLetThroughWhereTheCheckIsOff) {
  AnyLoss module([](const auto& y) { return y.mean() / 0; });
  TrainerConfig config = quiet();
  config.max_steps = 2;
  config.check_finite_loss = false;
  Trainer trainer(config);
  trainer.fit(module, load(torch::ones({8, 2})));
  EXPECT_EQ(trainer.progress().global_step, 2);
}

TEST(Loss, MustBeOneElementThatDependsOnAParameter) {
  EXPECT_EQ(fit_error<UsageError>([](const auto& y) { return y; }),
            "AnyLoss::training_step() returned a tensor of shape [4, 2], not a loss of one "
            "element. Return loss.mean(), say.");
  EXPECT_EQ(fit_error<UsageError>([](const auto&) { return torch::Tensor(); }),
            "AnyLoss::training_step() returned an undefined tensor, not a loss of one element. "
            "Return loss.mean(), say.");
  EXPECT_EQ(fit_error<UsageError>([](const auto& y) { return y.mean().detach(); }),
            "AnyLoss::training_step() returned a loss that does not depend on any parameter. "
            "Compute it from the module's layers, without detach() or NoGradGuard.");
  EXPECT_NE(fit_error<UsageError>([](const auto& y) {
              const torch::NoGradGuard no_grad;
              return y.mean() * 2;
            }),
            "");
}

class NoData : public DataModule {};

TEST(Data, ThatIsMissingIsAnError) {
  ToyModule module;
  NoData data;
  Trainer trainer(quiet());
  EXPECT_EQ(thrown<DataError>([&] { trainer.fit(module, data); }),
            "fit: the data module has no train_dataloader(). Override it.");
  EXPECT_EQ(thrown<DataError>([&] { trainer.validate(module, data); }),
            "validate: the data module has no val_dataloader(). Override it.");
  EXPECT_EQ(thrown<DataError>([&] { trainer.test(module, data); }),
            "test: the data module has no test_dataloader(). Override it.");
  EXPECT_EQ(thrown<DataError>([&] { trainer.predict(module, data); }),
            "predict: the data module has no predict_dataloader(). Override it.");
}

TEST(Data, OfWhichALimitLeavesNothingIsAnError) {
  ToyModule module;
  ToyData data(8, 4);
  TrainerConfig config = quiet();
  config.limit_train_batches = int64_t{0};
  EXPECT_EQ(
      thrown<DataError>([&] { Trainer(config).fit(module, data); }),
      R"(fit: there is no training batch (data of {"batch_size":4,"samples":8,"shuffle":true}). )"
      "trainer.limit_train_batches is 0: set it to 1 or more.");
  config.limit_train_batches = 0.1;
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer(config).fit(module, data); }),
            "trainer.limit_train_batches: 0.1 of 2 batches is less than one. Write 1 for one "
            "batch, or a larger fraction.");
}

TEST(Settings, AreCheckedWhenTheTrainerIsMade) {
  TrainerConfig config = quiet();
  config.limit_val_batches = 1.5;
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer{config}; }),
            "in code: trainer.limit_val_batches: is '1.5': a fraction above 1. Write 2 for that "
            "many batches, or 1.0 for all.");
  config = quiet();
  config.accumulate_grad_batches = 0;
  config.precision = "fp16";
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer{config}; }),
            "in code: trainer.precision: is 'fp16': choose one of: 32-true, 64-true, 16-true, "
            "bf16-true, 16-mixed, bf16-mixed, 32, 64, 16, bf16.\n"
            "in code: trainer.accumulate_grad_batches: is '0': must be at least 1.");
}

TEST(Settings, ThatLBFGSCannotHaveAreRefused) {
  class WithLBFGS : public ToyModule {
   public:
    OptimizerConfig configure_optimizers() override {
      return std::make_unique<torch::optim::LBFGS>(parameters(), torch::optim::LBFGSOptions(0.1));
    }
  };
  WithLBFGS module;
  ToyData data;
  TrainerConfig config = quiet();
  config.accumulate_grad_batches = 2;
  EXPECT_EQ(thrown<ConfigError>([&] { Trainer(config).fit(module, data); }),
            "trainer.accumulate_grad_batches has no meaning for LBFGS, which evaluates the loss of "
            "a batch several times in a step. Set it to 1 and make the batches larger.");
  config = quiet();
  config.precision = "16-mixed";
  EXPECT_EQ(
      thrown<ConfigError>([&] { Trainer(config).fit(module, data); }),
      "trainer.precision is 16-mixed, in which a step evaluates the loss once; LBFGS evaluates "
      "it several times. Train in bf16-mixed or 32-true.");
}

/// Also where no callback saves: save_checkpoint() may.
TEST(Settings, OfAnOptimizerThatCannotBeSavedAreRefusedWhenFitStarts) {
  class NoState : public torch::optim::Optimizer {
   public:
    explicit NoState(std::vector<torch::Tensor> parameters)
        : Optimizer({torch::optim::OptimizerParamGroup(std::move(parameters))},
                    std::make_unique<torch::optim::SGDOptions>(0.1)) {}
    torch::Tensor step(LossClosure closure) override { return closure(); }
  };
  class WithNoState : public ToyModule {
   public:
    OptimizerConfig configure_optimizers() override {
      return std::make_unique<NoState>(parameters());
    }
    void on_train_start() override { ADD_FAILURE() << "fit has begun"; }
  };
  WithNoState module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_steps = 1;
  EXPECT_THROW(Trainer(config).fit(module, data), UsageError);
}

TEST(Evaluation, NeedsItsStep) {
  class OnlyTraining : public Module {
   public:
    torch::Tensor training_step(const Batch&, int64_t) override { return {}; }
  } module;
  ToyData data;
  EXPECT_EQ(thrown<UsageError>([&] { Trainer(quiet()).test(module, data); }),
            "OnlyTraining has no test_step(). Override it to use test.");
}

TEST(Logging, OutsideOfTheLoopIsAnError) {
  class Early : public ToyModule {
   public:
    void setup(Stage) override { log("x", 1.0); }
  } module;
  ToyData data;
  EXPECT_EQ(thrown<UsageError>([&] { Trainer(quiet()).fit(module, data); }),
            "log('x'): cannot log in a hook outside of the loop, as setup. Log in training_step, "
            "validation_step, test_step or an epoch hook.");
}

TEST(Settings, OfValidationThatNoEpochReachesAreRefused) {
  ToyModule module;
  ToyData data(8, 4);
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.val_check_interval = int64_t{3};
  EXPECT_EQ(
      thrown<ConfigError>([&] { Trainer(config).fit(module, data); }),
      "trainer.val_check_interval: 3 batches, but an epoch has 2: validation would never run. "
      "Give at most 2, or a fraction of an epoch as a float (1.0), or "
      "check_val_every_n_epoch: null to count batches across epochs.");
}

/// Settings of a run that saves checkpoints and nothing else.
TrainerConfig saving(int64_t max_steps) {
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.logger = {"CSVLogger"};
  config.max_steps = max_steps;
  return config;
}

TEST(Resuming, RefusesDataThatWouldGoOnElsewhere) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ToyModule module;
  ToyData data(50, 4);
  Trainer(saving(5)).fit(module, data);
  ToyData other(50, 8);
  EXPECT_EQ(
      thrown<CheckpointError>([&] { Trainer(saving(9)).fit(module, other, "last"); }),
      "the checkpoint was saved within epoch 0, after batch 5, over data of "
      R"({"accumulate_grad_batches":1,"batch_size":4,"epoch_is_over":false,"samples":50,"shuffle":true,"world_size":1})"
      "; now it is "
      R"({"accumulate_grad_batches":1,"batch_size":8,"epoch_is_over":false,"samples":50,"shuffle":true,"world_size":1})"
      ". "
      "The rest of that epoch would be other samples.\n  Resume with the same data and settings, "
      "or from a checkpoint at the end of an epoch.");
}

TEST(Resuming, EndsAnEpochThatIsShorterNow) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ToyModule module;
  ToyData data(50, 4);
  Trainer(saving(5)).fit(module, data);
  TrainerConfig config = saving(9);
  config.limit_train_batches = int64_t{3};
  Trainer trainer(config);
  trainer.fit(module, data, "last");
  EXPECT_EQ(trainer.progress().global_step, 9);
  EXPECT_EQ(trainer.progress().current_epoch, 2);
}

TEST(Resuming, LeavesTheRunAsItWasWhereItFails) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ToyModule module;
  ToyData data;
  Trainer(saving(5)).fit(module, data);
  const auto files = [] {
    std::map<std::string, std::string> all;
    for (const char* name : {"config.yaml", "provenance.json", "metrics.csv"}) {
      all[name] = read_file(fs::Path("runs/version_0") / name);
    }
    return all;
  };
  const auto before = files();
  class Other : public ToyModule {
   public:
    Other() { register_parameter("more", torch::zeros({1})); }
  } other;
  const std::string path = RunDirectory("runs/version_0").last()->string();
  EXPECT_THROW(Trainer(saving(9)).fit(other, data, path), CheckpointError);
  EXPECT_EQ(files(), before);
}

TEST(RunFolder, IsNotLeftBehindByARunThatDidNotBegin) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  class Broken : public ToyData {
    void setup(Stage) override { throw DataError("nothing there"); }
  } data;
  ToyModule module;
  EXPECT_THROW(Trainer(saving(1)).fit(module, data), DataError);
  EXPECT_FALSE(std::filesystem::exists("runs/version_0"));
}

TEST(RunFolder, BelongsToOneFitAtATime) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ToyModule module;
  ToyData data;
  Trainer(saving(5)).fit(module, data);
  const std::string rows = read_file("runs/version_0/metrics.csv");
  {
    const auto lock = fs::DirectoryLock::try_lock("runs/version_0");  // as another process would
    EXPECT_EQ(thrown<UsageError>([&] { Trainer(saving(9)).fit(module, data, "last"); }),
              "runs/version_0: another process trains in this folder. Wait for its end, or start a "
              "run of its own: without --ckpt_path.");
    Trainer evaluation(saving(9));
    evaluation.test(module, data, "last");
    EXPECT_EQ(evaluation.run_dir(), "runs/version_1");
    EXPECT_EQ(read_file("runs/version_0/metrics.csv"), rows);
  }
  Trainer evaluation(saving(9));
  evaluation.test(module, data, RunDirectory("runs/version_0").last()->string());
  EXPECT_EQ(evaluation.run_dir(), "runs/version_0");
}

std::vector<std::string>& events() {
  static std::vector<std::string> all;
  return all;
}

class Watcher : public Callback {
 public:
  void on_exception(Trainer& trainer, Module&, const std::exception& error) override {
    (void)trainer.callback_metrics();  // what there is of the loop can still be asked
    (void)trainer.progress_bar_metrics();
    events().push_back(std::string("on_exception ") + error.what());
  }
  void on_train_batch_end(Trainer&, Module& module, const torch::Tensor&, const Batch&,
                          int64_t) override;
};

class Recorder : public Logger {
 public:
  void setup(const fs::Path&) override {}
  void log_metrics(const Metrics&, int64_t) override {}
  void finalize(std::string_view status) override {
    events().push_back("finalize " + std::string(status));
  }
};

class Thrower : public ToyModule {
 public:
  explicit Thrower(std::string where) : where_(std::move(where)) {}
  void here(const std::string& hook) const {
    if (hook == where_) {
      throw std::out_of_range("thrown in " + hook);
    }
  }
  void prepare_data() override { here("prepare_data"); }
  void setup(Stage) override { here("setup"); }
  void on_fit_start() override { here("on_fit_start"); }
  void on_train_start() override { here("on_train_start"); }
  void on_before_zero_grad(torch::optim::Optimizer&) override { here("on_before_zero_grad"); }
  void on_after_backward() override { here("on_after_backward"); }
  void on_train_batch_end(const torch::Tensor&, const Batch&, int64_t) override {
    here("on_train_batch_end");
  }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    here("validation_step");
    ToyModule::validation_step(batch, batch_idx);
  }
  void on_train_epoch_end() override { here("on_train_epoch_end"); }
  void on_fit_end() override { here("on_fit_end"); }
  void teardown(Stage) override { here("teardown"); }
  OptimizerConfig configure_optimizers() override {
    here("configure_optimizers");
    return ToyModule::configure_optimizers();
  }

 private:
  std::string where_;
};

void Watcher::on_train_batch_end(Trainer&, Module& module, const torch::Tensor&, const Batch&,
                                 int64_t) {
  dynamic_cast<Thrower&>(module).here("a callback");
}

TEST(UserException, ReachesCallbacksLoggersAndTheCaller) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  for (const std::string hook :
       {"prepare_data", "setup", "configure_optimizers", "on_fit_start", "on_train_start",
        "on_before_zero_grad", "on_after_backward", "on_train_batch_end", "a callback",
        "validation_step", "on_train_epoch_end", "on_fit_end", "teardown"}) {
    events().clear();
    TrainerConfig config = quiet();
    config.max_epochs = 1;
    config.logger = {use<Recorder>()};
    config.callbacks = {use<Watcher>()};
    Trainer trainer(config);
    Thrower module(hook);
    ToyData data;
    EXPECT_EQ(thrown<std::out_of_range>([&] { trainer.fit(module, data); }), "thrown in " + hook);
    EXPECT_EQ(events(),
              (std::vector<std::string>{"on_exception thrown in " + hook, "finalize failed"}));
    EXPECT_TRUE(module.is_training());
    events().clear();
    Thrower harmless("nowhere");
    trainer.fit(harmless, data);  // the Trainer is as good as new
    EXPECT_EQ(events(), (std::vector<std::string>{"finalize success"}));
  }
}

TEST(UserException, OfAnyTypeIsTold) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  events().clear();
  class Odd : public ToyModule {
    void on_train_start() override { throw 7; }  // NOLINT: what some libraries do
  } module;
  ToyData data;
  TrainerConfig config = quiet();
  config.logger = {use<Recorder>()};
  config.callbacks = {use<Watcher>()};
  EXPECT_THROW(Trainer(config).fit(module, data), int);
  EXPECT_EQ(events(),
            (std::vector<std::string>{"on_exception something was thrown that is no std::exception",
                                      "finalize failed"}));
}

}  // namespace
}  // namespace trainer::test
