// Callbacks that look at whole parameters and write to them while these are sharded, under real
// mpirun.

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <strategies/fsdp.h>

#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Looks at all parameters wherever it is called, and halves them once.
class Looks : public Callback {
 public:
  void on_train_start(Trainer& trainer, Module& module) override { look(trainer, module); }
  void on_train_batch_start(Trainer& trainer, Module& module, const Batch&, int64_t) override {
    look(trainer, module);
  }
  void on_after_backward(Trainer& trainer, Module& module) override { look(trainer, module); }
  void on_before_optimizer_step(Trainer& trainer, Module& module,
                                torch::optim::Optimizer&) override {
    look(trainer, module);
  }
  void on_train_batch_end(Trainer& trainer, Module& module, const torch::Tensor&, const Batch&,
                          int64_t batch_idx) override {
    if (batch_idx == 2) {
      const auto whole = scope(trainer);
      const torch::NoGradGuard no_grad;
      for (auto& parameter : module.parameters()) {
        parameter.mul_(0.5);
      }
    }
    look(trainer, module);
  }
  void on_validation_epoch_end(Trainer& trainer, Module& module) override { look(trainer, module); }
  void on_train_end(Trainer& trainer, Module& module) override { look(trainer, module); }

  std::vector<torch::Tensor> seen;

 private:
  static std::shared_ptr<void> scope(Trainer& trainer) {
    auto* const sharding = trainer.strategy().sharding();
    return sharding != nullptr ? sharding->whole_parameters() : nullptr;
  }
  void look(Trainer& trainer, const Module& module) {
    const auto whole = scope(trainer);
    seen.push_back(flat_weights(module).clone());
  }
};

class WithLooks : public ToyModule {
 public:
  std::vector<std::shared_ptr<Callback>> configure_callbacks() override { return {looks}; }
  const std::shared_ptr<Looks> looks = std::make_shared<Looks>();
};

std::vector<torch::Tensor> seen_by(const Spec<Strategy>& strategy) {
  seed_everything(5);
  WithLooks module;
  ToyData data;
  auto config = quiet();
  config.strategy = strategy;
  config.max_epochs = 2;
  config.accumulate_grad_batches = 2;
  Trainer(config).fit(module, data);
  return module.looks->seen;
}

TEST(WholeParameters, CallbacksSeeAndChangeThemInEveryHook) {
  const auto expected = seen_by("auto");
  ASSERT_GT(expected.size(), 20U);
  for (const char* mode : {"full_shard", "shard_grad_op", "shard_optimizer"}) {
    const auto actual = seen_by(use<FSDP>({.mode = mode, .intercept = "dispatch_key"}));
    ASSERT_EQ(actual.size(), expected.size()) << mode;
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-5, 1e-6)) << mode << ", look " << i;
    }
  }
}

}  // namespace
}  // namespace trainer::test
