// Every hook, in the order in which PyTorch Lightning calls those that exist here.
//
// golden/hook_order.txt is what Lightning 2.6.6 called with this module, callback and data module,
// except for two things:
// - M.state_dict where a checkpoint is saved and M.load_state_dict where it is read are left out:
//   torch::nn::Module has no such hooks, our weights are read from it by name.
// - "resume fit" has no sanity check. Lightning runs it again on resume; here it ran when the run
//   began (docs/differences_from_lightning.md).

#include <gtest/gtest.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// What was called, one on a line.
std::string& calls() {
  static std::string all;
  return all;
}

void record(const char* who, const std::string& hook) { calls() += who + hook + "\n"; }

/// Whether what is called because of an exception throws another.
bool throws_again = false;

void record_failure(const char* who, const std::string& hook) {
  record(who, hook);
  if (throws_again) {
    throw std::logic_error(std::string("a second one, of ") + who);
  }
}

// Overrides that record their own name, by what they are given.
#define RECORD(hook, ...) \
  void hook(__VA_ARGS__) override { record(kWho, #hook); }

class RecordingModule : public ToyModule {
 public:
  static constexpr const char* kWho = "M.";

  RECORD(prepare_data)
  RECORD(configure_model)
  RECORD(on_fit_start)
  RECORD(on_fit_end)
  RECORD(on_train_start)
  RECORD(on_train_end)
  RECORD(on_train_epoch_start)
  RECORD(on_train_epoch_end)
  RECORD(on_validation_start)
  RECORD(on_validation_end)
  RECORD(on_validation_epoch_start)
  RECORD(on_validation_epoch_end)
  RECORD(on_test_start)
  RECORD(on_test_end)
  RECORD(on_test_epoch_start)
  RECORD(on_test_epoch_end)
  RECORD(on_predict_start)
  RECORD(on_predict_end)
  RECORD(on_predict_epoch_start)
  RECORD(on_predict_epoch_end)
  RECORD(on_after_backward)
  RECORD(setup, Stage)
  RECORD(teardown, Stage)
  RECORD(on_validation_model_zero_grad)
  RECORD(on_validation_model_train)
  RECORD(on_test_model_train)
  RECORD(on_validation_batch_start, const Batch&, int64_t)
  RECORD(on_validation_batch_end, const Batch&, int64_t)
  RECORD(on_test_batch_start, const Batch&, int64_t)
  RECORD(on_test_batch_end, const Batch&, int64_t)
  RECORD(on_predict_batch_start, const Batch&, int64_t)
  RECORD(on_train_batch_end, const torch::Tensor&, const Batch&, int64_t)
  RECORD(on_predict_batch_end, const torch::Tensor&, const Batch&, int64_t)
  RECORD(on_before_zero_grad, torch::optim::Optimizer&)
  RECORD(on_before_optimizer_step, torch::optim::Optimizer&)
  RECORD(on_before_backward, const torch::Tensor&)
  RECORD(on_save_checkpoint, nlohmann::json&)
  RECORD(on_load_checkpoint, const nlohmann::json&)

  std::vector<std::shared_ptr<Callback>> configure_callbacks() override {
    record(kWho, "configure_callbacks");
    return {};
  }
  bool on_train_batch_start(const Batch&, int64_t) override {
    record(kWho, "on_train_batch_start");
    return true;
  }
  void on_validation_model_eval() override {
    record(kWho, "on_validation_model_eval");
    ToyModule::on_validation_model_eval();
  }
  void on_test_model_eval() override {
    record(kWho, "on_test_model_eval");
    ToyModule::on_test_model_eval();
  }
  void on_predict_model_eval() override {
    record(kWho, "on_predict_model_eval");
    ToyModule::on_predict_model_eval();
  }
  void optimizer_zero_grad(torch::optim::Optimizer& optimizer, Strategy& strategy) override {
    record(kWho, "optimizer_zero_grad");
    ToyModule::optimizer_zero_grad(optimizer, strategy);
  }
  void lr_scheduler_step(LRScheduler& scheduler, std::optional<double> metric) override {
    record(kWho, "lr_scheduler_step");
    ToyModule::lr_scheduler_step(scheduler, metric);
  }
  void clip_gradients(torch::optim::Optimizer& optimizer, Strategy& strategy,
                      std::optional<double> max_norm, std::optional<double> max_value) override {
    record(kWho, "clip_gradients");
    ToyModule::clip_gradients(optimizer, strategy, max_norm, max_value);
  }

  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    record(kWho, "training_step");
    if (batch_idx == throws_at_batch) {
      throw std::out_of_range("the first one");
    }
    return ToyModule::training_step(batch, batch_idx);
  }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    record(kWho, "validation_step");
    ToyModule::validation_step(batch, batch_idx);
  }
  void test_step(const Batch& batch, int64_t batch_idx) override {
    record(kWho, "test_step");
    ToyModule::test_step(batch, batch_idx);
  }
  torch::Tensor predict_step(const Batch& batch, int64_t batch_idx) override {
    record(kWho, "predict_step");
    return ToyModule::predict_step(batch, batch_idx);
  }
  OptimizerConfig configure_optimizers() override {
    record(kWho, "configure_optimizers");
    auto optimizer = std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(0.01));
    auto by_step = std::make_unique<StepLR>(*optimizer, 1);
    auto by_epoch = std::make_unique<StepLR>(*optimizer, 1);
    return OptimizerConfig(std::move(optimizer))
        .add({.scheduler = std::move(by_step), .interval = Interval::kStep})
        .add({.scheduler = std::move(by_epoch), .interval = Interval::kEpoch});
  }
  void backward(const torch::Tensor& loss) override {
    record(kWho, "backward");
    ToyModule::backward(loss);
  }
  void configure_gradient_clipping(torch::optim::Optimizer& optimizer, Strategy& strategy,
                                   std::optional<double> max_norm,
                                   std::optional<double> max_value) override {
    record(kWho, "configure_gradient_clipping");
    ToyModule::configure_gradient_clipping(optimizer, strategy, max_norm, max_value);
  }
  torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer, Strategy& strategy,
                               const std::function<torch::Tensor()>& closure) override {
    record(kWho, "optimizer_step");
    return ToyModule::optimizer_step(optimizer, strategy, closure);
  }

  int64_t throws_at_batch = -1;
};

class RecordingCallback : public Callback {
 public:
  static constexpr const char* kWho = "C.";

  RECORD(on_fit_start, Trainer&, Module&)
  RECORD(on_fit_end, Trainer&, Module&)
  RECORD(on_train_start, Trainer&, Module&)
  RECORD(on_train_end, Trainer&, Module&)
  RECORD(on_train_epoch_start, Trainer&, Module&)
  RECORD(on_train_epoch_end, Trainer&, Module&)
  RECORD(on_validation_start, Trainer&, Module&)
  RECORD(on_validation_end, Trainer&, Module&)
  RECORD(on_validation_epoch_start, Trainer&, Module&)
  RECORD(on_validation_epoch_end, Trainer&, Module&)
  RECORD(on_test_start, Trainer&, Module&)
  RECORD(on_test_end, Trainer&, Module&)
  RECORD(on_test_epoch_start, Trainer&, Module&)
  RECORD(on_test_epoch_end, Trainer&, Module&)
  RECORD(on_predict_start, Trainer&, Module&)
  RECORD(on_predict_end, Trainer&, Module&)
  RECORD(on_predict_epoch_start, Trainer&, Module&)
  RECORD(on_predict_epoch_end, Trainer&, Module&)
  RECORD(on_after_backward, Trainer&, Module&)
  RECORD(on_sanity_check_start, Trainer&, Module&)
  RECORD(on_sanity_check_end, Trainer&, Module&)
  RECORD(on_train_stop, Trainer&, Module&)
  RECORD(setup, Trainer&, Module&, Stage)
  RECORD(teardown, Trainer&, Module&, Stage)
  RECORD(on_train_batch_start, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_validation_batch_start, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_validation_batch_end, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_test_batch_start, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_test_batch_end, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_predict_batch_start, Trainer&, Module&, const Batch&, int64_t)
  RECORD(on_train_batch_end, Trainer&, Module&, const torch::Tensor&, const Batch&, int64_t)
  RECORD(on_predict_batch_end, Trainer&, Module&, const torch::Tensor&, const Batch&, int64_t)
  RECORD(on_before_zero_grad, Trainer&, Module&, torch::optim::Optimizer&)
  RECORD(on_before_optimizer_step, Trainer&, Module&, torch::optim::Optimizer&)
  RECORD(on_before_backward, Trainer&, Module&, const torch::Tensor&)
  RECORD(on_save_checkpoint, Trainer&, Module&, nlohmann::json&)
  RECORD(on_load_checkpoint, Trainer&, Module&, const nlohmann::json&)

  void on_exception(Trainer&, Module&, const std::exception& error) override {
    record_failure(kWho, std::string("on_exception ") + error.what());
  }
  nlohmann::json state_dict() const override {
    record(kWho, "state_dict");
    return nullptr;
  }
};

class RecordingData : public ToyData {
 public:
  static constexpr const char* kWho = "D.";

  RecordingData() : ToyData(12, 4) {}  // three batches

  RECORD(prepare_data)
  RECORD(setup, Stage)
  RECORD(teardown, Stage)

  DataLoader train_dataloader() override {
    record(kWho, "train_dataloader");
    return ToyData::train_dataloader();
  }
  DataLoader val_dataloader() override {
    record(kWho, "val_dataloader");
    return ToyData::val_dataloader();
  }
  DataLoader test_dataloader() override {
    record(kWho, "test_dataloader");
    return ToyData::test_dataloader();
  }
  DataLoader predict_dataloader() override {
    record(kWho, "predict_dataloader");
    return ToyData::predict_dataloader();
  }
  Batch on_before_batch_transfer(Batch batch) override {
    record(kWho, "on_before_batch_transfer");
    return batch;
  }
  Batch transfer_batch_to_device(Batch batch, torch::Device device) override {
    record(kWho, "transfer_batch_to_device");
    return ToyData::transfer_batch_to_device(std::move(batch), device);
  }
  Batch on_after_batch_transfer(Batch batch) override {
    record(kWho, "on_after_batch_transfer");
    return batch;
  }
  void on_exception(const std::exception& error) override {
    record_failure(kWho, std::string("on_exception ") + error.what());
  }
  nlohmann::json state_dict() const override {
    record(kWho, "state_dict");
    return nullptr;
  }
};

class RecordingLogger : public Logger {
 public:
  void setup(const fs::Path&) override {}
  void log_metrics(const Metrics&, int64_t) override {}
  void finalize(std::string_view status) override {
    record_failure("L.", "finalize " + std::string(status));
  }
};

#undef RECORD

/// The calls of a stage, one on a line, from the record of Lightning 2.6 in golden/hook_order.txt.
std::string expected(const std::string& stage) {
  const std::string file = read_file(tests_dir() / "golden/hook_order.txt");
  const std::string title = "## " + stage + "\n";
  const size_t begin = file.find(title);
  EXPECT_NE(begin, std::string::npos) << stage;
  return file.substr(begin + title.size(), file.find("## ", begin + 1) - begin - title.size());
}

TEST(HookOrder, IsLightningsOwn) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.accumulate_grad_batches = 2;
  config.num_sanity_val_steps = 1;
  config.gradient_clip_val = 1.0;
  config.limit_val_batches = int64_t{1};
  config.limit_test_batches = int64_t{1};
  config.limit_predict_batches = int64_t{1};
  // Lightning's rule; ours is to save after validation where there is one.
  config.callbacks = {use<ModelCheckpoint>({.save_on_train_epoch_end = true}),
                      use<RecordingCallback>()};
  config.enable_checkpointing = true;
  Trainer trainer(config);
  RecordingModule module;
  RecordingData data;
  const std::pair<std::string, std::function<void()>> stages[] = {
      {"fit", [&] { trainer.fit(module, data); }},
      {"validate", [&] { trainer.validate(module, data); }},
      {"test", [&] { trainer.test(module, data); }},
      {"predict", [&] { trainer.predict(module, data); }}};
  for (const auto& [stage, run] : stages) {
    calls().clear();
    run();
    EXPECT_EQ(calls(), expected(stage)) << stage;
  }
  config.limit_train_batches = int64_t{1};
  config.accumulate_grad_batches = 1;
  config.max_epochs = 2;
  config.enable_checkpointing = false;
  config.callbacks = {use<RecordingCallback>()};
  calls().clear();
  Trainer(config).fit(module, data, "last");
  EXPECT_EQ(calls(), expected("resume fit"));
}

/// What is called after training_step() of the second batch threw: in Lightning 2.6.6 too nothing
/// that ends the epoch or the fit, and no teardown. Lightning lets a second exception replace the
/// first and call nothing more.
TEST(HookOrder, AfterAnExceptionIsLightningsOwnAndASecondOneChangesNothing) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  config.logger = {use<RecordingLogger>()};
  config.callbacks = {use<RecordingCallback>()};
  for (const bool again : {false, true}) {
    throws_again = again;
    calls().clear();
    RecordingModule module;
    module.throws_at_batch = 1;
    RecordingData data;
    Trainer trainer(config);
    EXPECT_EQ(thrown<std::out_of_range>([&] { trainer.fit(module, data); }), "the first one");
    throws_again = false;
    EXPECT_EQ(trainer.progress().batches, 1);
    const std::string step = "M.training_step\n";
    EXPECT_EQ(calls().substr(calls().rfind(step) + step.size()),
              "C.on_exception the first one\n"
              "D.on_exception the first one\n"
              "L.finalize failed\n")
        << (again ? "each throws another" : "");
  }
}

}  // namespace
}  // namespace trainer::test
