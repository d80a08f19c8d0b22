// Several optimizers that take turns in automatic optimization.

#include <gtest/gtest.h>

#include <tests/support/in_turn.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// One optimizer for each layer: two steps of the first, one of the second, and so on.
class InTurn : public Module {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    turns.push_back(progress().optimizer_idx);
    EXPECT_EQ(first->weight.requires_grad(), turns.back() == 0);
    EXPECT_EQ(second->weight.requires_grad(), turns.back() == 1);
    return loss_of(batch);
  }
  OptimizerConfig configure_optimizers() override { return in_turn(first, second); }
  std::vector<int64_t> turns;

 protected:
  torch::Tensor loss_of(const Batch& batch) {
    const auto out = second(torch::relu(first(batch[0])));
    return torch::nn::functional::cross_entropy(out, batch[1]);
  }
  torch::nn::Linear first = register_module("first", torch::nn::Linear(6, 4));
  torch::nn::Linear second = register_module("second", torch::nn::Linear(4, 2));
};

/// The same by manual optimization.
class ByHand : public InTurn {
 public:
  bool automatic_optimization() const override { return false; }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    const bool is_second = progress().global_step % 3 == 2;
    auto one = optimizer(is_second ? 1 : 0);
    const auto toggled = toggle(one);
    one.zero_grad();
    const auto loss = loss_of(batch);
    manual_backward(loss);
    one.step();
    if (is_second) {
      lr_schedulers().at(0)->step();
    }
    return loss;
  }
};

template <typename M>
torch::Tensor train(M& module, int64_t max_steps, const Trainer::CkptPath& ckpt_path = {}) {
  ToyData data(40, 4);
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.max_steps = max_steps;
  Trainer trainer(config);
  trainer.fit(module, data, ckpt_path);
  EXPECT_EQ(trainer.progress().global_step, max_steps);
  return flat_weights(module);
}

TEST(OptimizerTurns, EqualTheSameStepsByHand) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  seed_everything(1);
  InTurn automatic;
  const auto expected = train(automatic, 14);
  EXPECT_EQ(automatic.turns, (std::vector<int64_t>{0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0}));
  seed_everything(1);
  ByHand by_hand;
  EXPECT_TRUE(torch::equal(train(by_hand, 14), expected));
}

TEST(OptimizerTurns, GoOnWhereTheyWereOnResume) {
  const TempDir whole;
  const auto expected = [&] {
    const WorkingDirectory here(whole.path());
    seed_everything(1);
    InTurn module;
    return train(module, 14);
  }();
  for (int64_t stop = 1; stop < 14; stop += 2) {
    const TempDir parts;
    const WorkingDirectory here(parts.path());
    seed_everything(1);
    InTurn module, resumed;
    train(module, stop);
    EXPECT_TRUE(torch::equal(train(resumed, 14, "last"), expected)) << "stopped after " << stop;
  }
}

TEST(OptimizerTurns, MustBeDeclared) {
  class Undeclared : public InTurn {
    OptimizerConfig configure_optimizers() override {
      return {std::make_unique<optim::AdamW>(first->parameters()),
              std::make_unique<optim::AdamW>(second->parameters())};
    }
  } module;
  EXPECT_EQ(thrown<UsageError>([&] { train(module, 1); }),
            "Undeclared::configure_optimizers() returned 2 optimizers, one of them with frequency "
            "0. For automatic optimization give each a frequency of 1 or more, the steps that it "
            "takes in a row; or override automatic_optimization() to return false, and step them "
            "in training_step().");
}

}  // namespace
}  // namespace trainer::test
