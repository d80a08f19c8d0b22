#include <trainer/eval_loop.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// Looks at the state of things in each evaluation step.
class Watching : public ToyModule {
 public:
  Watching() : frozen(register_module("frozen", torch::nn::Dropout(0.5))) { frozen->eval(); }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    look();
    batch_indices.push_back(batch_idx);
    log("val_loss", batch[size_t{0}].mean());
  }
  torch::Tensor predict_step(const Batch& batch, int64_t) override {
    look();
    return batch[size_t{0}];
  }
  void look() {
    EXPECT_FALSE(is_training());
    EXPECT_FALSE(torch::GradMode::is_enabled());
    was_inference = c10::InferenceMode::is_enabled();
    torch::rand({3});  // must not shift the numbers that training draws
  }
  torch::nn::Dropout frozen;
  std::vector<int64_t> batch_indices;
  bool was_inference = false;
};

TEST(EvalLoop, LeavesModesGradientsAndRandomNumbersAsTheyWere) {
  for (const bool inference_mode : {true, false}) {
    seed_everything(3);
    Watching module;
    ToyData data;
    TrainerConfig config = quiet();
    config.inference_mode = inference_mode;
    Trainer trainer(config);
    const std::string before = get_rng_state();
    trainer.validate(module, data);
    EXPECT_EQ(module.was_inference, inference_mode);
    EXPECT_EQ(get_rng_state(), before);
    EXPECT_TRUE(module.is_training());
    EXPECT_FALSE(module.frozen->is_training()) << "it was in eval mode";
    EXPECT_TRUE(torch::GradMode::is_enabled());
    trainer.predict(module, data);
    EXPECT_EQ(module.was_inference, inference_mode);
    EXPECT_TRUE(module.is_training());
    EXPECT_FALSE(module.frozen->is_training());
  }
}

TEST(EvalLoop, UsesNoInferenceModeWithinFit) {
  Watching module;
  ToyData data;
  TrainerConfig config = quiet();
  config.max_epochs = 1;
  Trainer(config).fit(module, data);
  EXPECT_FALSE(module.was_inference) << "its tensors could not take part in training";
}

TEST(EvalLoop, TakesTheBatchesThatTheLimitLeaves) {
  ToyData data;  // 4 batches
  const auto batches = [&](const BatchLimit& limit) {
    Watching module;
    TrainerConfig config = quiet();
    config.limit_val_batches = limit;
    Trainer(config).validate(module, data);
    return module.batch_indices.size();
  };
  EXPECT_EQ(batches(1.0), 4U);
  EXPECT_EQ(batches(int64_t{1}), 1U);
  EXPECT_EQ(batches(0.5), 2U);
  EXPECT_EQ(batches(int64_t{9}), 4U);
}

TEST(EvalLoop, GivesModesBackWhereAStepThrows) {
  class Throwing : public Watching {
   public:
    void validation_step(const Batch&, int64_t) override { throw std::runtime_error("here"); }
  };
  Throwing module;
  ToyData data;
  EXPECT_EQ(thrown<std::runtime_error>([&] { Trainer(quiet()).validate(module, data); }), "here");
  EXPECT_TRUE(module.is_training());
  EXPECT_FALSE(module.frozen->is_training());
  EXPECT_TRUE(torch::GradMode::is_enabled());
}

TEST(NumBatches, OfAStreamAreUnknown) {
  std::vector<EvalData> data(2);
  data[0].num_batches = 3;
  data[1].num_batches = 4;
  EXPECT_EQ(num_batches(data), 7);
  data[1].num_batches = kAllBatches;
  EXPECT_EQ(num_batches(data), kAllBatches);
  EXPECT_EQ(num_batches({}), 0);
}

}  // namespace
}  // namespace trainer::test
