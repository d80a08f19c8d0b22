#pragma once
// A small module and data for tests of the loops: with dropout and shuffling, so that every random
// number counts.

#include <cmath>

#include <trainer/api.h>

namespace trainer::test {

class ToyData : public DataModule {
 public:
  explicit ToyData(int64_t num_samples = 50, int64_t batch_size = 4) : batch_size_(batch_size) {
    auto generator = at::detail::createCPUGenerator(123);
    const auto x = torch::randn({num_samples, 6}, generator);
    const auto y = (x.sum(1) > 0).to(torch::kInt64);
    data_ = std::make_shared<TensorDataset>(std::vector<torch::Tensor>{x, y});
  }
  DataLoader train_dataloader() override {
    return {data_, {.batch_size = batch_size_, .shuffle = true}};
  }
  DataLoader val_dataloader() override { return {data_, {.batch_size = 16}}; }
  DataLoader test_dataloader() override { return {data_, {.batch_size = 16}}; }
  DataLoader predict_dataloader() override { return {data_, {.batch_size = 16}}; }

 protected:
  std::shared_ptr<TensorDataset> dataset() const { return data_; }

 private:
  int64_t batch_size_;
  std::shared_ptr<TensorDataset> data_;
};

class ToyModule : public Module {
 public:
  ToyModule()
      : fc1_(register_module("fc1", torch::nn::Linear(6, 8))),
        dropout_(register_module("dropout", torch::nn::Dropout(0.3))),
        fc2_(register_module("fc2", torch::nn::Linear(8, 2))) {}

  torch::Tensor forward(const torch::Tensor& x) { return fc2_(dropout_(torch::relu(fc1_(x)))); }

  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    auto loss = torch::nn::functional::cross_entropy(forward(x), y);
    log("train_loss", loss, {.on_epoch = true});
    log("random", torch::rand({}));
    return loss;
  }
  void validation_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    log("val_loss", torch::nn::functional::cross_entropy(forward(x), y) + 0.0 * torch::rand({}));
  }
  void test_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    log("test_loss", torch::nn::functional::cross_entropy(forward(x), y));
  }
  torch::Tensor predict_step(const Batch& batch, int64_t) override { return forward(batch[0]); }

  OptimizerConfig configure_optimizers() override {
    auto optimizer =
        std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(0.01).eps(1e-4));
    auto schedule = std::make_unique<WarmupCosineLR>(*optimizer, 5, 200);
    return {std::move(optimizer), {.scheduler = std::move(schedule), .interval = Interval::kStep}};
  }

 private:
  torch::nn::Linear fc1_;
  torch::nn::Dropout dropout_;
  torch::nn::Linear fc2_;
};

/// All parameters, one after the other.
inline torch::Tensor flat_weights(const Module& module) {
  std::vector<torch::Tensor> all;
  for (const auto& parameter : module.parameters()) {
    all.push_back(parameter.detach().flatten());
  }
  return torch::cat(all);
}

/// Settings that write nothing and print nothing.
inline TrainerConfig quiet() {
  TrainerConfig config;
  config.logger = {};
  config.enable_checkpointing = false;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  config.num_sanity_val_steps = 0;
  return config;
}

}  // namespace trainer::test
