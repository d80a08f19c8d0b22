// A small convolutional network on the handwritten digits, with a cosine schedule.
//
//   build/bin/trainer fit --config configs/digits_cnn.yaml      0.98 to 0.99 validation accuracy,
//   see README.md

#include <trainer/api.h>

namespace L = trainer;
namespace F = torch::nn::functional;

class DigitsCNN : public L::Module {
 public:
  static constexpr const char* kDoc = "Small convolutional network for the digits.";

  struct Init {
    int64_t channels = 32;
    double lr = 4e-3;
    double dropout = 0.1;
    int64_t warmup_steps = 40;
    int64_t total_steps = 800;

    static constexpr auto fields() {
      using L::config::field, L::config::at_least, L::config::in_range;
      return std::tuple{
          field<&Init::channels>("Channels of the first convolution; the second has twice as many.",
                                 at_least(1)),
          field<&Init::lr>("Peak learning rate.", at_least(0.0)),
          field<&Init::dropout>("Dropout before the last layer.", in_range(0.0, 1.0)),
          field<&Init::warmup_steps>("Optimizer steps of linear warm-up.", at_least(0)),
          field<&Init::total_steps>("Optimizer steps until the learning rate is 0.", at_least(1))};
    }
  };

  explicit DigitsCNN(Init init)
      : init_(init),
        conv1_(register_module("conv1", conv(1, init.channels))),
        conv2_(register_module("conv2", conv(init.channels, 2 * init.channels))),
        dropout_(register_module("dropout", torch::nn::Dropout(init.dropout))),
        head_(register_module("head", torch::nn::Linear(2 * init.channels * 4 * 4, 10))) {}

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(conv1_(x));                        // [batch, channels, 8, 8]
    x = torch::max_pool2d(torch::relu(conv2_(x)), 2);  // [batch, 2 * channels, 4, 4]
    return head_(dropout_(x.flatten(1)));
  }

  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    auto loss = F::cross_entropy(forward(x), y);
    log("train_loss", loss, {.on_epoch = true, .prog_bar = true});
    return loss;
  }

  void validation_step(const L::Batch& batch, int64_t) override { evaluate(batch, "val"); }
  void test_step(const L::Batch& batch, int64_t) override { evaluate(batch, "test"); }

  L::OptimizerConfig configure_optimizers() override {
    auto optimizer =
        std::make_unique<L::optim::AdamW>(parameters(), L::optim::AdamWOptions(init_.lr));
    auto schedule =
        std::make_unique<L::WarmupCosineLR>(*optimizer, init_.warmup_steps, init_.total_steps);
    return {std::move(optimizer),
            {.scheduler = std::move(schedule), .interval = L::Interval::kStep}};
  }

 private:
  static torch::nn::Conv2d conv(int64_t in, int64_t out) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1));
  }

  void evaluate(const L::Batch& batch, const std::string& stage) {
    auto [x, y] = batch.unpack<2>();
    auto logits = forward(x);
    log(stage + "_loss", F::cross_entropy(logits, y), {.prog_bar = true});
    log(stage + "_acc", (logits.argmax(1) == y).to(torch::kFloat).mean(), {.prog_bar = true});
  }

  Init init_;
  torch::nn::Conv2d conv1_, conv2_;
  torch::nn::Dropout dropout_;
  torch::nn::Linear head_;
};

TRAINER_REGISTER_MODULE(DigitsCNN);
