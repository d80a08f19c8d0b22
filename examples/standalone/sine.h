#pragma once
// A small network learns sin(x).

#include <trainer/api.h>

/// Batches are (x [batch, 1] float32 in -pi to pi, sin(x) [batch, 1] float32).
class SineData : public trainer::DataModule {
 public:
  struct Init {
    int64_t num_samples = 1024;
    int64_t batch_size = 32;

    static constexpr auto fields() {
      using trainer::config::field, trainer::config::at_least;
      return std::tuple{field<&Init::num_samples>("Points on the curve.", at_least(2)),
                        field<&Init::batch_size>("Samples in a batch.", at_least(1))};
    }
  };

  explicit SineData(Init init) : init_(init) {
    const auto x = torch::linspace(-M_PI, M_PI, init_.num_samples).unsqueeze(1);
    points_ = std::make_shared<trainer::TensorDataset>(std::vector<torch::Tensor>{x, x.sin()});
  }

  trainer::DataLoader train_dataloader() override {
    return {points_, {.batch_size = init_.batch_size, .shuffle = true}};
  }
  trainer::DataLoader val_dataloader() override { return {points_, {.batch_size = 256}}; }

 private:
  Init init_;
  std::shared_ptr<trainer::TensorDataset> points_;
};

class SineNet : public trainer::Module {
 public:
  struct Init {
    int64_t hidden = 32;
    double lr = 1e-2;

    static constexpr auto fields() {
      using trainer::config::field, trainer::config::at_least;
      return std::tuple{field<&Init::hidden>("Width of the hidden layer.", at_least(1)),
                        field<&Init::lr>("Learning rate.", at_least(0.0))};
    }
  };

  explicit SineNet(Init init)
      : init_(init),
        fc1_(register_module("fc1", torch::nn::Linear(1, init.hidden))),
        fc2_(register_module("fc2", torch::nn::Linear(init.hidden, 1))) {}

  torch::Tensor training_step(const trainer::Batch& batch, int64_t) override {
    const auto loss = error(batch);
    log("train_loss", loss, {.prog_bar = true});
    return loss;
  }
  void validation_step(const trainer::Batch& batch, int64_t) override {
    log("val_loss", error(batch));
  }

  trainer::OptimizerConfig configure_optimizers() override {
    return std::make_unique<trainer::optim::AdamW>(parameters(),
                                                   trainer::optim::AdamWOptions(init_.lr));
  }

 private:
  torch::Tensor error(const trainer::Batch& batch) {
    const auto [x, y] = batch.unpack<2>();
    return torch::mse_loss(fc2_(torch::tanh(fc1_(x))), y);
  }

  Init init_;
  torch::nn::Linear fc1_, fc2_;
};
