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

#include <tests/support/thrown.h>
#include <tests/support/toy.h>

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

}  // namespace trainer::test
