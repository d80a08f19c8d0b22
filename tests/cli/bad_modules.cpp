// A plug-in with modules that make mistakes.

#include <cmath>
#include <csignal>
#include <stdexcept>

#include <trainer/api.h>
#include <trainer/world.h>

namespace L = trainer;

/// One linear layer on the digits; what it does wrong is in training_step().
class BadModule : public L::Module {
 public:
  BadModule() : fc_(register_module("fc", torch::nn::Linear(64, 10))) {}

  L::OptimizerConfig configure_optimizers() override {
    return std::make_unique<L::optim::AdamW>(parameters());
  }

 protected:
  torch::Tensor loss(const L::Batch& batch) {
    auto [x, y] = batch.unpack<2>();
    return torch::nn::functional::cross_entropy(fc_(x.flatten(1)), y);
  }

 private:
  torch::nn::Linear fc_;
};

class LogsVector : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    log("probabilities", torch::zeros({3}));
    return loss(batch);
  }
};

class LosesFiniteness : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch& batch, int64_t batch_idx) override {
    return batch_idx == 2 ? loss(batch) * std::nan("") : loss(batch);
  }
};

class Throws : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch&, int64_t) override {
    throw std::runtime_error("no idea how to train");
  }
};

class ThrowsNumber : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch&, int64_t) override { throw 42; }
};

/// The first rank waits for the others, which never come.
class ThrowsOnLastRank : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch&, int64_t) override {
    if (L::world().rank() == L::world().size() - 1) {
      throw std::runtime_error("no idea how to train");
    }
    L::world().barrier();
    return {};
  }
};

class DiesOnLastRank : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch&, int64_t) override {
    if (L::world().rank() == L::world().size() - 1) {
      std::raise(SIGKILL);
    }
    L::world().barrier();
    return {};
  }
};

class WarnsInEachStep : public BadModule {
 public:
  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    TORCH_WARN("the target has another shape");
    return loss(batch);
  }
};

TRAINER_REGISTER_MODULE(DiesOnLastRank);
TRAINER_REGISTER_MODULE(LogsVector);
TRAINER_REGISTER_MODULE(LosesFiniteness);
TRAINER_REGISTER_MODULE(Throws);
TRAINER_REGISTER_MODULE(ThrowsNumber);
TRAINER_REGISTER_MODULE(ThrowsOnLastRank);
TRAINER_REGISTER_MODULE(WarnsInEachStep);
