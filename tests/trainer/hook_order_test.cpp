// Every hook, in the order in which PyTorch Lightning calls those that exist here.

#include <gtest/gtest.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// What was called, one on a line.
std::string& calls() {
  static std::string all;
  return all;
}

void record(const char* who, const std::string& hook) { calls() += who + hook + "\n"; }

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
  RECORD(on_train_batch_start, const Batch&, int64_t)
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

  torch::Tensor training_step(const Batch& batch, int64_t batch_idx) override {
    record(kWho, "training_step");
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
    return ToyModule::configure_optimizers();
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
  nlohmann::json state_dict() const override {
    record(kWho, "state_dict");
    return nullptr;
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
}

}  // namespace
}  // namespace trainer::test
