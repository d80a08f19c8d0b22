// A two-layer perceptron on the handwritten digits.
//
//   build/bin/trainer fit --config configs/digits.yaml          0.97 to 0.98 validation accuracy,
//   see README.md

#include <trainer/api.h>

namespace L = trainer;
namespace F = torch::nn::functional;

class DigitsMLP : public L::Module {
 public:
  static constexpr const char* kDoc = "Two-layer perceptron for the digits.";

  struct Init {
    int64_t hidden = 128;
    double lr = 2e-3;
    double weight_decay = 1e-2;

    static constexpr auto fields() {
      using L::config::field, L::config::at_least;
      return std::tuple{field<&Init::hidden>("Width of the hidden layer.", at_least(1)),
                        field<&Init::lr>("Learning rate.", at_least(0.0)),
                        field<&Init::weight_decay>("Decoupled weight decay.", at_least(0.0))};
    }
  };

  explicit DigitsMLP(Init init)
      : init_(init),
        fc1_(register_module("fc1", torch::nn::Linear(64, init.hidden))),
        fc2_(register_module("fc2", torch::nn::Linear(init.hidden, 10))) {}

  torch::Tensor forward(const torch::Tensor& x) { return fc2_(torch::relu(fc1_(x.flatten(1)))); }

  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();  // [batch, 1, 8, 8] float32, [batch] int64
    auto loss = F::cross_entropy(forward(x), y);
    log("train_loss", loss, {.on_epoch = true, .prog_bar = true});
    return loss;
  }

  void validation_step(const L::Batch& batch, int64_t) override { evaluate(batch, "val"); }
  void test_step(const L::Batch& batch, int64_t) override { evaluate(batch, "test"); }

  torch::Tensor predict_step(const L::Batch& batch, int64_t) override {
    return forward(batch[0]).softmax(1);
  }

  L::OptimizerConfig configure_optimizers() override {
    return std::make_unique<L::optim::AdamW>(
        parameters(), L::optim::AdamWOptions(init_.lr).weight_decay(init_.weight_decay));
  }

 private:
  void evaluate(const L::Batch& batch, const std::string& stage) {
    auto [x, y] = batch.unpack<2>();
    auto logits = forward(x);
    log(stage + "_loss", F::cross_entropy(logits, y), {.prog_bar = true});
    log(stage + "_acc", (logits.argmax(1) == y).to(torch::kFloat).mean(), {.prog_bar = true});
  }

  Init init_;
  torch::nn::Linear fc1_, fc2_;
};

TRAINER_REGISTER_MODULE(DigitsMLP);
