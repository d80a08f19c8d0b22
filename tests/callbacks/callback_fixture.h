#pragma once
// What the tests of the callbacks share: a module that does next to nothing, data for it, and a
// Trainer that writes nothing unless asked to.

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/filesystem.h>
#include <trainer/data/data_loader.h>
#include <trainer/data/dataset.h>
#include <trainer/trainer.h>

namespace trainer::test {

/// One weight. Validation logs `script[n]` as "val_loss", n being the training epoch; behind the
/// end it logs nothing.
class ScriptedModule : public Module {
 public:
  explicit ScriptedModule(std::vector<double> values = {}) : script(std::move(values)) {
    weight = register_parameter("weight", torch::ones({1}));
  }

  torch::Tensor training_step(const Batch&, int64_t) override {
    log("train_loss", 0.5, {.on_step = true, .on_epoch = true, .prog_bar = true});
    return (weight * weight).sum();
  }
  void validation_step(const Batch&, int64_t) override {
    const auto epoch = static_cast<size_t>(progress().current_epoch);
    if (epoch < script.size()) {
      log("val_loss", script[epoch], {.prog_bar = true});
    }
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(0.1));
  }

  std::vector<double> script;
  torch::Tensor weight;
};

/// `num_batches` batches of one sample.
inline DataLoader make_loader(int64_t num_batches) {
  auto dataset =
      std::make_shared<TensorDataset>(std::vector<torch::Tensor>{torch::zeros({num_batches, 1})});
  return DataLoader(std::move(dataset), {.batch_size = 1, .num_workers = 0});
}

/// No logger, no checkpoint, nothing on the screen.
inline TrainerConfig quiet_config() {
  TrainerConfig config;
  config.logger = {};
  config.enable_checkpointing = false;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  return config;
}

/// The callback of class T that the trainer has.
template <class T>
std::shared_ptr<T> callback(const Trainer& trainer) {
  for (const auto& candidate : trainer.callbacks()) {
    if (auto found = std::dynamic_pointer_cast<T>(candidate)) {
      return found;
    }
  }
  return nullptr;
}

/// What `call` writes to standard error.
inline std::string standard_error_of(const std::function<void()>& call) {
  ::testing::internal::CaptureStderr();
  try {
    call();
  } catch (...) {
    ::testing::internal::GetCapturedStderr();
    throw;
  }
  return ::testing::internal::GetCapturedStderr();
}

/// The message of the error that `call` throws; "" and a failure where it throws none.
template <class E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// A folder of the running test's own, removed at its end.
class TestFolder {
 public:
  TestFolder() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = fs::Path(::testing::TempDir()) /
            (std::string(test->test_suite_name()) + "_" + test->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const fs::Path& path() const { return path_; }

 private:
  fs::Path path_;
};

}  // namespace trainer::test
