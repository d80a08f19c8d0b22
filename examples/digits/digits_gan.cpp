// A generative adversarial network that draws handwritten digits: two optimizers, stepped by hand.
// Goodfellow et al. 2014, arXiv:1406.2661, with the non-saturating loss.
//
//   build/bin/trainer fit --config configs/digits_gan.yaml         see README.md
//   build/bin/trainer predict --config configs/digits_gan.yaml --ckpt_path=last

#include <trainer/api.h>

namespace L = trainer;
namespace F = torch::nn::functional;

class DigitsGAN : public L::Module {
 public:
  static constexpr const char* kDoc = "Generator and discriminator of 8x8 digits.";

  struct Init {
    int64_t latent = 32;
    int64_t hidden = 256;
    double lr = 5e-4;

    static constexpr auto fields() {
      using L::config::field, L::config::at_least;
      return std::tuple{
          field<&Init::latent>("Random numbers that an image is made of.", at_least(1)),
          field<&Init::hidden>("Width of the hidden layers.", at_least(1)),
          field<&Init::lr>("Learning rate of both optimizers.", at_least(0.0))};
    }
  };

  explicit DigitsGAN(Init init)
      : init_(init),
        generator_(register_module(
            "generator",
            torch::nn::Sequential(torch::nn::Linear(init.latent, init.hidden), torch::nn::ReLU(),
                                  torch::nn::Linear(init.hidden, init.hidden), torch::nn::ReLU(),
                                  torch::nn::Linear(init.hidden, 64), torch::nn::Sigmoid()))),
        discriminator_(register_module(
            "discriminator",
            torch::nn::Sequential(torch::nn::Linear(64, init.hidden), torch::nn::LeakyReLU(),
                                  torch::nn::Dropout(0.3),
                                  torch::nn::Linear(init.hidden, init.hidden),
                                  torch::nn::LeakyReLU(), torch::nn::Linear(init.hidden, 1)))) {}

  bool automatic_optimization() const override { return false; }

  /// [batch, 64], each pixel in 0 to 1.
  torch::Tensor generate(int64_t batch) {
    return generator_->forward(torch::randn({batch, init_.latent}));
  }

  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    const auto real = batch[0].flatten(1);
    train_discriminator(real);
    train_generator(real.size(0));
    return {};
  }

  void validation_step(const L::Batch& batch, int64_t) override {
    const auto real = batch[0].flatten(1);
    const auto fake = generate(real.size(0));
    log("val_real", discriminator_->forward(real).sigmoid().mean());
    log("val_fake", discriminator_->forward(fake).sigmoid().mean(), {.prog_bar = true});
    // How far the mean generated image is from the mean real one, a pixel.
    log("val_distance", (real.mean(0) - fake.mean(0)).abs().mean(), {.prog_bar = true});
  }

  /// Drawings, as many as the batch has images: [batch, 1, 8, 8].
  torch::Tensor predict_step(const L::Batch& batch, int64_t) override {
    return generate(batch.size()).view({-1, 1, 8, 8});
  }

  L::OptimizerConfig configure_optimizers() override {
    const auto options = L::optim::AdamWOptions(init_.lr).betas({0.5, 0.999}).weight_decay(0);
    return {std::make_unique<L::optim::AdamW>(generator_->parameters(), options),
            std::make_unique<L::optim::AdamW>(discriminator_->parameters(), options)};
  }

 private:
  /// Cross-entropy against "all real" or "all generated".
  torch::Tensor loss(const torch::Tensor& images, double is_real) {
    const auto logits = discriminator_->forward(images);
    return F::binary_cross_entropy_with_logits(logits, torch::full_like(logits, is_real));
  }

  void train_discriminator(const torch::Tensor& real) {
    auto optimizer = this->optimizer(1);
    const auto toggled = toggle(optimizer);
    const auto d_loss = (loss(real, 0.9) + loss(generate(real.size(0)).detach(), 0)) / 2;
    log("d_loss", d_loss, {.on_epoch = true, .prog_bar = true});
    optimizer.zero_grad();
    manual_backward(d_loss);
    optimizer.step();
  }

  void train_generator(int64_t batch) {
    auto optimizer = this->optimizer(0);
    const auto toggled = toggle(optimizer);
    const auto g_loss = loss(generate(batch), 1);
    log("g_loss", g_loss, {.on_epoch = true, .prog_bar = true});
    optimizer.zero_grad();
    manual_backward(g_loss);
    optimizer.step();
  }

  Init init_;
  torch::nn::Sequential generator_, discriminator_;
};

TRAINER_REGISTER_MODULE(DigitsGAN);
