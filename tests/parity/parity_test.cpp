// The same weights and batches give the same losses as PyTorch Lightning, recorded by record.sh.

#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <trainer/api.h>
#include <trainer/builtins.h>
#include <trainer/checkpoint/safetensors.h>
#include <trainer/cli/plugin.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

constexpr int64_t kSteps = 200;
constexpr int64_t kNumBatches = 36;

/// The batches of record.py, in their order.
class RecordedBatches : public DataModule {
 public:
  explicit RecordedBatches(const std::string& model) {
    const auto table = data::read_csv(tests_dir().parent_path() / "data/digits.csv.gz");
    if (model == "mlp") {
      batch_size_ = 32;
      const auto rows = table.narrow(0, 0, batch_size_ * kNumBatches);
      tensors_ = {rows.narrow(1, 0, 64).div(16).reshape({-1, 1, 8, 8}),
                  rows.select(1, 64).to(torch::kInt64)};
    } else {
      batch_size_ = 8;
      const auto text = table.narrow(1, 0, 64).flatten().to(torch::kInt64);
      const auto windows = text.unfold(0, 65, 64).narrow(0, 0, batch_size_ * kNumBatches);
      tensors_ = {windows.narrow(1, 0, 64).contiguous(), windows.narrow(1, 1, 64).contiguous()};
    }
  }
  DataLoader train_dataloader() override {
    return {std::make_shared<TensorDataset>(tensors_), {.batch_size = batch_size_}};
  }

 private:
  int64_t batch_size_ = 0;
  std::vector<torch::Tensor> tensors_;
};

std::vector<double>& losses() {
  static std::vector<double> all;
  return all;
}

/// The loss of the batch that ended each step.
class LossRecorder : public Callback {
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor& loss, const Batch&,
                          int64_t) override {
    if (trainer.at_step_edge()) {
      losses().push_back(loss.item<double>());
    }
  }
};

struct Scenario {
  std::string name;
  std::string optimizer;
  std::string lr_scheduler = {};
  int64_t accumulate = 1;
  std::optional<double> clip = std::nullopt;
  std::string precision = "32-true";
};

const std::string kAdamW = "{class_path: AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.01}}";

std::vector<Scenario> scenarios() {
  return {
      {.name = "adamw", .optimizer = kAdamW},
      {.name = "sgd", .optimizer = "{class_path: SGD, init_args: {lr: 0.05, momentum: 0.9}}"},
      {.name = "accumulate", .optimizer = kAdamW, .accumulate = 4, .clip = 1.0},
      {.name = "warmup_cosine",
       .optimizer = kAdamW,
       .lr_scheduler =
           "{class_path: WarmupCosineLR, init_args: {warmup_steps: 20, total_steps: 200}}"},
      {.name = "two_groups",
       .optimizer = "{class_path: AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.1, "
                    "no_decay: '.*bias|.*ln.*'}}"},
      {.name = "bf16", .optimizer = kAdamW, .precision = "bf16-mixed"},
  };
}

std::shared_ptr<Module> make_module(const std::string& model) {
  const bool is_mlp = model == "mlp";
  load_plugin(is_mlp ? "digits" : "gpt");
  config::Diagnostics diagnostics;
  const auto spec = config::read<Spec<Module>>(
      config::parse_yaml(is_mlp ? "{class_path: DigitsMLP, init_args: {hidden: 128}}"
                                : "{class_path: GPT, init_args: {vocab_size: 17, block_size: 64, "
                                  "num_layers: 2, num_heads: 2, dim: 64}}",
                         "x"),
      "model", diagnostics);
  diagnostics.throw_if_any();
  return spec.create();
}

OptimizerChoice choice_of(const Scenario& scenario) {
  config::Diagnostics diagnostics;
  OptimizerChoice choice;
  choice.optimizer = config::read<Spec<OptimizerFactory>>(
      config::parse_yaml(scenario.optimizer, "optimizer"), "optimizer", diagnostics);
  if (!scenario.lr_scheduler.empty()) {
    choice.lr_scheduler = config::read<Spec<LRSchedulerFactory>>(
        config::parse_yaml(scenario.lr_scheduler, "lr_scheduler"), "lr_scheduler", diagnostics);
  }
  diagnostics.throw_if_any();
  return choice;
}

class Parity : public testing::TestWithParam<std::tuple<std::string, Scenario>> {};

TEST_P(Parity, WithLightningsLossCurve) {
  register_builtins();
  const auto& [model, scenario] = GetParam();
  const auto golden = tests_dir() / "golden/parity";
  const auto expected =
      nlohmann::json::parse(read_file(golden / "curves.json")).at(model + "/" + scenario.name);
  ASSERT_EQ(expected.size(), kSteps);

  TrainerConfig config = quiet();
  config.max_steps = kSteps;
  config.accumulate_grad_batches = scenario.accumulate;
  config.gradient_clip_val = scenario.clip;
  config.precision = scenario.precision;
  config.callbacks = {use<LossRecorder>()};
  Trainer trainer(config);
  trainer.set_optimizer(choice_of(scenario));
  trainer.set_init_from(golden / (model + ".safetensors"));
  losses().clear();
  const auto module = make_module(model);
  RecordedBatches data(model);
  trainer.fit(*module, data);

  // bfloat16 has 8 bits: the order of a sum shows in the third digit, and grows while training.
  const double tolerance = scenario.precision == "bf16-mixed" ? 3e-2 : 1e-5;
  ASSERT_EQ(losses().size(), kSteps);
  double worst = 0;
  for (size_t i = 0; i < losses().size(); ++i) {
    const double theirs = expected[i].get<double>();
    worst = std::max(worst, std::abs(losses()[i] - theirs) / std::abs(theirs));
  }
  EXPECT_LT(worst, tolerance);
  RecordProperty("largest_relative_difference", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Parity,
                         testing::Combine(testing::Values("mlp", "gpt"),
                                          testing::ValuesIn(scenarios())),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" + std::get<1>(test.param).name;
                         });

}  // namespace
}  // namespace trainer::test
