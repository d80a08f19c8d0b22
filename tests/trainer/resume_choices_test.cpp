// A resumed run is the run that never stopped under every optimizer, schedule and precision, in
// automatic and manual optimization, stopped after any batch, within an accumulation window too.

#include <random>

#include <gtest/gtest.h>

#include <trainer/builtins.h>
#include <trainer/precision.h>

#include <tests/support/in_turn.h>
#include <tests/support/raise_at.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

constexpr int64_t kBatches = 40;
constexpr double kClip = 0.1;  // of the norm or the values: most steps are clipped
const RunDirectory kRun("runs/version_0");

enum class Steps { kAutomatic, kByHand, kInTurn };

/// What a run is made of; classes in YAML.
struct Choices {
  std::string optimizer = "{class_path: AdamW, init_args: {lr: 0.01, eps: 1.0e-4}}";
  std::string lr_scheduler = "{class_path: WarmupCosineLR, init_args: {warmup_steps: 5}}";
  std::string precision = "32-true";
  std::string monitor = "";
  Steps steps = Steps::kAutomatic;
  Accumulation accumulate = 1;
  std::string clip = "norm";
  int64_t stop_after = 0;  // batches

  bool is_lbfgs() const { return optimizer.find("LBFGS") != std::string::npos; }
};

void PrintTo(const Choices& c, std::ostream* out) {
  *out << c.optimizer << " " << c.lr_scheduler << " " << c.precision << " steps "
       << static_cast<int>(c.steps) << " accumulate "
       << config::to_yaml(config::write(c.accumulate)) << " clip " << c.clip << " stopped after "
       << c.stop_after;
}

template <class T>
T from_yaml(const std::string& text) {
  config::Diagnostics diagnostics;
  auto value = config::read<T>(config::parse_yaml(text, "choice"), "choice", diagnostics);
  diagnostics.throw_if_any();
  return value;
}

/// Without biases, since Muon takes matrices only; with a metric of its own.
class Net : public Module {
 public:
  explicit Net(const Choices& choices)
      : choices_(choices),
        hidden_(register_module("hidden", torch::nn::Linear(options(6, 8)))),
        dropout_(register_module("dropout", torch::nn::Dropout(0.2))),
        out_(register_module("out", torch::nn::Linear(options(8, 2)))) {}
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto logits = out_(dropout_(torch::tanh(hidden_(x))));
    const auto loss = torch::nn::functional::cross_entropy(logits.to(torch::kFloat32), y);
    accuracy_->update(logits, y);
    log("train_loss", loss, {.on_epoch = true});
    log("accuracy", *accuracy_, {.on_step = false, .on_epoch = true});
    if (!automatic_optimization()) {
      step_by_hand(loss);
    }
    return loss;
  }
  bool automatic_optimization() const override { return choices_.steps != Steps::kByHand; }
  OptimizerConfig configure_optimizers() override {
    return choices_.steps == Steps::kInTurn ? in_turn(hidden_, out_) : stock();
  }
  void validation_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    log("val_loss",
        torch::nn::functional::cross_entropy(out_(torch::tanh(hidden_(x))).to(torch::kFloat32), y));
  }

 private:
  void step_by_hand(const torch::Tensor& loss) {
    auto one = optimizer();
    one.zero_grad();
    manual_backward(loss);
    if (choices_.clip == "norm") {
      one.clip_by_norm(kClip);
    } else {
      one.clip_by_value(kClip);
    }
    one.step();
    lr_schedulers().at(0)->step();
  }
  /// Of torch::optim.
  OptimizerConfig stock() {
    namespace T = torch::optim;
    const std::string& stock_optimizer = choices_.optimizer;
    if (stock_optimizer == "torch::optim::Adam") {
      return std::make_unique<T::Adam>(parameters(), T::AdamOptions(0.01).amsgrad(true));
    }
    if (stock_optimizer == "torch::optim::AdamW") {
      return std::make_unique<T::AdamW>(parameters(), T::AdamWOptions(0.01));
    }
    if (stock_optimizer == "torch::optim::SGD") {
      return std::make_unique<T::SGD>(parameters(), T::SGDOptions(0.1).momentum(0.9));
    }
    if (stock_optimizer == "torch::optim::RMSprop") {
      return std::make_unique<T::RMSprop>(parameters(), T::RMSpropOptions(0.01).centered(true));
    }
    if (stock_optimizer == "torch::optim::Adagrad") {
      return std::make_unique<T::Adagrad>(parameters(), T::AdagradOptions(0.05));
    }
    return std::make_unique<T::LBFGS>(parameters(), T::LBFGSOptions(0.1).max_iter(3));
  }
  static torch::nn::LinearOptions options(int64_t in, int64_t out) {
    return torch::nn::LinearOptions(in, out).bias(false);
  }
  const Choices choices_;
  torch::nn::Linear hidden_;
  torch::nn::Dropout dropout_;
  torch::nn::Linear out_;
  std::shared_ptr<metrics::Accuracy> accuracy_ = register_module(
      "accuracy", std::make_shared<metrics::Accuracy>(metrics::AccuracyOptions{.num_classes = 2}));
};

/// Trains to the end, from the start or from `last`; returns the files of the last checkpoint.
std::map<std::string, std::string> train(const Choices& c, int64_t interrupt_after,
                                         const Trainer::CkptPath& ckpt_path, uint64_t seed) {
  seed_everything(seed);
  Net module(c);
  ToyData data;  // 13 batches in an epoch, the last one of 2 samples
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.max_duration = Duration(kBatches, Duration::Unit::kBatches);
  config.precision = c.precision;
  config.accumulate_grad_batches = c.accumulate;
  if (c.steps != Steps::kByHand) {
    config.gradient_clip_val = kClip;
    config.gradient_clip_algorithm = c.clip;
  }
  config.check_finite_loss = false;  // 16-true overflows under some of them
  // Saves where training ends and no more: each checkpoint waits for the disk.
  config.callbacks = {use<RaiseAt>({.batches = interrupt_after}),
                      use<ModelCheckpoint>({.every_n_epochs = 100})};
  Trainer trainer(config);
  if (!c.optimizer.starts_with("torch::") && c.steps != Steps::kInTurn) {
    OptimizerChoice choice{.optimizer = from_yaml<Spec<OptimizerFactory>>(c.optimizer),
                           .lr_scheduler = from_yaml<Spec<LRSchedulerFactory>>(c.lr_scheduler)};
    if (!c.monitor.empty()) {
      choice.interval = Interval::kEpoch;
      choice.monitor = c.monitor;
    }
    trainer.set_optimizer(std::move(choice));
  }
  trainer.fit(module, data, ckpt_path);
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(*kRun.last())) {
    const std::string name = entry.path().filename().string();
    if (name != "config.yaml" && name != "manifest.json") {  // RaiseAt's argument stands in them
      files[name] = read_file(entry.path());
    }
  }
  return files;
}

class ResumeUnder : public testing::TestWithParam<Choices> {};

TEST_P(ResumeUnder, TheseChoicesEqualsNeverStopped) {
  const Choices& c = GetParam();
  std::map<std::string, std::string> expected;
  {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    expected = train(c, 0, {}, 7);
  }
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  train(c, c.stop_after, {}, 7);
  const auto state = nlohmann::json::parse(read_file(*kRun.last() / "trainer_state.json"));
  ASSERT_LT(state.at("loop").at("batches"), kBatches) << "the interruption";
  const auto actual = train(c, 0, "last", /*another seed, other weights:*/ 99);
  ASSERT_EQ(expected.size(), c.steps == Steps::kInTurn ? 4U : 3U);  // weights, optimizers, state
  for (const auto& [name, content] : expected) {
    EXPECT_TRUE(actual.at(name) == content) << name << " differs";
    if (name.ends_with("json")) {
      EXPECT_EQ(actual.at(name), content);
    }
  }
}

std::vector<Choices> every_choice() {
  register_builtins();
  std::mt19937 random(20261121);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  std::vector<Choices> all;
  const auto add = [&](Choices c) {
    // LBFGS evaluates a batch again and again, which the other batches of a window are not there
    // for; by hand every batch is a window.
    if (!c.is_lbfgs() && c.steps != Steps::kByHand && c.accumulate == Accumulation(1)) {
      c.accumulate = 1 + below(4);
    }
    c.stop_after = 1 + below(kBatches - 5);
    all.push_back(std::move(c));
  };
  const std::vector<std::string> optimizers = {
      "{class_path: AdamW, init_args: {amsgrad: true}}",
      "Adam",
      "Adagrad",
      "LAMB",
      "{class_path: LBFGS, init_args: {lr: 0.1, max_iter: 3}}",
      "Lion",
      "Muon",
      "{class_path: RMSprop, init_args: {momentum: 0.9, centered: true}}",
      "{class_path: SGD, init_args: {lr: 0.1, momentum: 0.9}}",
      "ScheduleFreeAdamW"};
  const std::vector<std::string> schedules = {
      "ConstantLR",
      "LinearLR",
      "{class_path: LinearWarmupLR, init_args: {warmup_steps: 4}}",
      "{class_path: StepLR, init_args: {step_size: 3}}",
      "{class_path: MultiStepLR, init_args: {milestones: [3, 9]}}",
      "{class_path: ExponentialLR, init_args: {gamma: 0.9}}",
      "{class_path: CosineAnnealingLR, init_args: {T_max: 12}}",
      "{class_path: CosineAnnealingWarmRestarts, init_args: {T_0: 5}}",
      "{class_path: OneCycleLR, init_args: {max_lr: 0.05, total_steps: 60}}",
      "{class_path: PolynomialLR, init_args: {total_iters: 20}}",
      "{class_path: WSDLR, init_args: {warmup_steps: 2, decay_steps: 5, total_steps: 60}}",
      "{class_path: SequentialLR, init_args: {schedulers: [ConstantLR, LinearLR], milestones: "
      "[4]}}",
      "{class_path: ChainedScheduler, init_args: {schedulers: [ConstantLR, LinearLR]}}"};
  for (const auto& optimizer : optimizers) {
    add({.optimizer = optimizer});
  }
  for (const char* name : {"Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "LBFGS"}) {
    add({.optimizer = std::string("torch::optim::") + name, .lr_scheduler = "none"});
  }
  for (const auto& schedule : schedules) {
    add({.lr_scheduler = schedule});
  }
  add({.lr_scheduler = "{class_path: ReduceLROnPlateau, init_args: {patience: 0, factor: 0.5}}",
       .monitor = "val_loss"});
  for (const auto& precision : Precision::names()) {
    add({.precision = precision});
    for (int i = 0; i < 2; ++i) {
      Choices c{.optimizer = optimizers[below(10)],
                .lr_scheduler = schedules[below(13)],
                .precision = precision,
                .clip = below(2) == 0 ? "norm" : "value"};
      if (!c.is_lbfgs()) {  // not in 16-mixed
        add(std::move(c));
      }
    }
  }
  for (const char* precision : {"32-true", "bf16-mixed", "16-mixed"}) {
    for (const char* clip : {"norm", "value"}) {
      const auto add_steps = [&](Steps steps, Accumulation accumulate) {
        add({.precision = precision, .steps = steps, .accumulate = accumulate, .clip = clip});
      };
      add_steps(Steps::kByHand, 1);
      add_steps(Steps::kInTurn, 1);
      add_steps(Steps::kAutomatic, {{{0, 2}, {1, 3}}});  // by epoch
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Resume, ResumeUnder, testing::ValuesIn(every_choice()));

}  // namespace
}  // namespace trainer::test
