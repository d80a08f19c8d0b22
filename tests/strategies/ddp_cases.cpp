// Trains a number of small modules, one after the other, and writes what came out of each to
// OUT/<case>.safetensors: every parameter, and the metrics of the last epoch. Started alone or
// under mpirun; ddp_parity_test.cpp compares.
//
//   ddp_cases OUT [CASE...]
//
// DDP_CASES_STOP=N ends after N steps with a checkpoint in OUT/<case>, DDP_CASES_RESUME=FOLDER goes
// on from the one in FOLDER/<case>. DDP_CASES_STRATEGY is another strategy than "auto",
// in YAML. DDP_CASES_FAIL has rank 1 fail in the first validation of modules with groups.

#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <string>

#include <strategies/ddp.h>
#include <trainer/api.h>
#include <trainer/builtins.h>
#include <trainer/checkpoint/safetensors.h>
#include <trainer/cli/plugin.h>
#include <trainer/world.h>

#include <tests/support/process.h>

namespace trainer::test {
namespace {

namespace F = torch::nn::functional;

constexpr int64_t kSteps = 50;
constexpr int64_t kGlobalBatch = 12;  // divides by 1, 2 and 4 ranks times 3 accumulated batches

/// [samples, 6] numbers with a class each.
class CaseData : public DataModule {
 public:
  explicit CaseData(int64_t num_samples = 120) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{123});
    const auto x = torch::randn({num_samples, 6}, generator);
    const auto y = (x.sum(1) > 0).to(torch::kInt64) + (x.select(1, 0) > 1).to(torch::kInt64);
    data_ = std::make_shared<TensorDataset>(std::vector<torch::Tensor>{x, y});
  }
  DataLoader train_dataloader() override {
    return {data_, {.global_batch_size = kGlobalBatch, .shuffle = true}};
  }
  DataLoader val_dataloader() override { return {data_, {.batch_size = 7}}; }

 protected:
  std::shared_ptr<TensorDataset> data_;
};

/// The same samples as a stream.
class Stream : public IterableDataset {
 public:
  explicit Stream(std::shared_ptr<TensorDataset> data) : data_(std::move(data)) {}
  void start(int64_t) override { next_ = 0; }
  std::optional<Batch> next() override {
    if (next_ == data_->size()) {
      return std::nullopt;
    }
    const auto batch = data_->get_batch({&next_, 1});
    ++next_;
    return Batch{batch[size_t{0}][0], batch[size_t{1}][0]};
  }

 private:
  std::shared_ptr<TensorDataset> data_;
  int64_t next_ = 0;
};

class StreamData : public CaseData {
 public:
  using CaseData::CaseData;
  DataLoader train_dataloader() override {
    return {std::make_shared<Stream>(data_), {.global_batch_size = kGlobalBatch}};
  }
};

class CaseModule : public Module {
 public:
  CaseModule()
      : fc1_(register_module("fc1", torch::nn::Linear(6, 16))),
        fc2_(register_module("fc2", torch::nn::Linear(16, 16))),
        fc3_(register_module("fc3", torch::nn::Linear(16, 3))) {}

  virtual torch::Tensor forward(const torch::Tensor& x) {
    return fc3_(torch::tanh(fc2_(torch::tanh(fc1_(x)))));
  }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    auto loss = F::cross_entropy(forward(x), y);
    log("train_loss", loss, {.on_step = false, .on_epoch = true});
    return loss;
  }
  void validation_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto scores = forward(x);
    log("val_loss", F::cross_entropy(scores, y));
    log("val_max", scores.max(), {.reduce_fx = ReduceFx::kMax});
    accuracy_->update(scores, y);
    log("val_accuracy", *accuracy_);
    log("val_samples", static_cast<double>(x.size(0)), {.reduce_fx = ReduceFx::kSum});
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(0.01).eps(1e-4));
  }

 protected:
  torch::nn::Linear fc1_, fc2_, fc3_;
  std::shared_ptr<metrics::Accuracy> accuracy_ = register_module(
      "accuracy", std::make_shared<metrics::Accuracy>(metrics::AccuracyOptions{.num_classes = 3}));
};

/// A layer that only some batches use (on one rank, it may be, and not on another), one that none
/// uses, and a frozen one.
class UnusedModule : public CaseModule {
 public:
  UnusedModule()
      : sometimes_(register_module("sometimes", torch::nn::Linear(16, 3))),
        never_(register_module("never", torch::nn::Linear(2, 2))),
        frozen_(register_module("frozen", torch::nn::Linear(6, 6))) {
    frozen_->weight.requires_grad_(false);
    frozen_->bias.requires_grad_(false);
  }
  torch::Tensor forward(const torch::Tensor& x) override {
    const auto hidden = torch::tanh(fc2_(torch::tanh(fc1_(frozen_(x)))));
    // Per sample, so that the gradient is the same however samples are batched.
    const auto is_on = (x.select(1, 1) > 1.2).unsqueeze(1);
    auto scores = fc3_(hidden);
    return is_on.any().item<bool>() ? scores + sometimes_(hidden) * is_on : scores;
  }

 private:
  torch::nn::Linear sometimes_, never_, frozen_;
};

/// Blocks that may run again in the backward pass, one of them used twice, and a parameter without
/// dimensions.
class BlocksModule : public CaseModule {
 public:
  BlocksModule() {
    for (int i = 0; i < 3; ++i) {
      blocks_->push_back(torch::nn::Sequential(torch::nn::Linear(16, 24), torch::nn::Tanh(),
                                               torch::nn::Linear(24, 16)));
    }
  }
  torch::Tensor forward(const torch::Tensor& x) override {
    auto hidden = torch::tanh(fc1_(x));
    for (const size_t i : {0, 1, 0, 2}) {
      hidden = hidden + checkpointed(blocks_[i]->as<torch::nn::Sequential>(), hidden);
    }
    return fc3_(torch::tanh(fc2_(hidden))) * scale_;
  }

 private:
  torch::Tensor scale_ = register_parameter("scale", torch::tensor(1.5));
  torch::nn::ModuleList blocks_ = register_module("blocks", torch::nn::ModuleList());
};

/// Two groups with options of their own; Muon takes the matrices alone.
template <class Optimizer, class Options>
class GroupsModule : public BlocksModule {
  OptimizerConfig configure_optimizers() override {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const bool is_block : {true, false}) {
      std::vector<torch::Tensor> own;
      for (const auto& item : named_parameters()) {
        const bool is_taken = !std::is_same_v<Optimizer, optim::Muon> || item.value().dim() == 2;
        if (is_taken && item.key().starts_with("blocks") == is_block) {
          own.push_back(item.value());
        }
      }
      groups.emplace_back(own,
                          std::make_unique<Options>(
                              Options(is_block ? 0.02 : 0.01).weight_decay(is_block ? 0.1 : 0)));
    }
    return std::make_unique<Optimizer>(groups);
  }
  void validation_step(const Batch& batch, int64_t batch_idx) override {
    const bool has_trained = progress().global_step > 0;
    if (std::getenv("DDP_CASES_FAIL") != nullptr && has_trained && world().rank() == 1) {
      throw std::runtime_error("no idea how to validate");
    }
    BlocksModule::validation_step(batch, batch_idx);
  }
};

/// The loss is a sum over what counts in each sample, as tokens do.
class WeightedModule : public CaseModule {
  static torch::Tensor counts(const Batch& batch) {
    return batch[size_t{0}].select(1, 2).abs().mul(3).floor();
  }
  double loss_weight(const Batch& batch) const override {
    return counts(batch).sum().item<double>();
  }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto each =
        F::cross_entropy(forward(x), y, F::CrossEntropyFuncOptions().reduction(torch::kNone));
    const auto weights = counts(batch);
    return (each * weights).sum() / weights.sum().clamp_min(1);
  }
};

class SyncBatchNormModule : public CaseModule {
 public:
  SyncBatchNormModule() : norm_(register_module("norm", torch::nn::BatchNorm1d(16))) {}
  torch::Tensor forward(const torch::Tensor& x) override {
    return fc3_(torch::tanh(fc2_(torch::tanh(norm_(fc1_(x))))));
  }

 private:
  torch::nn::BatchNorm1d norm_;
};

/// Two optimizers by hand; the second one's gradient comes in two backward passes.
class ByHandModule : public CaseModule {
  bool automatic_optimization() const override { return false; }
  OptimizerConfig configure_optimizers() override {
    auto rest = fc2_->parameters();
    const auto last = fc3_->parameters();
    rest.insert(rest.end(), last.begin(), last.end());
    return {
        OptimizerConfig(std::make_unique<optim::SGD>(fc1_->parameters(), 0.05)),
        OptimizerConfig(std::make_unique<optim::AdamW>(rest, optim::AdamWOptions(0.01).eps(1e-4)))};
  }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    auto first = optimizer(0);
    auto second = optimizer(1);
    {
      const auto toggled = toggle(first);
      first.zero_grad();
      manual_backward(F::cross_entropy(forward(x), y));
      first.clip_by_norm(0.5);
      first.step();
    }
    second.zero_grad();
    auto loss = F::cross_entropy(forward(x), y);
    manual_backward(loss);
    manual_backward(forward(x).square().mean() * 0.1);
    second.step();
    log("train_loss", loss, {.on_step = false, .on_epoch = true});
    return loss;
  }
};

/// One backward pass for two optimizers.
class TwoStepsModule : public CaseModule {
  bool automatic_optimization() const override { return false; }
  OptimizerConfig configure_optimizers() override {
    return {OptimizerConfig(std::make_unique<optim::SGD>(fc1_->parameters(), 0.05)),
            OptimizerConfig(std::make_unique<optim::AdamW>(fc2_->parameters(),
                                                           optim::AdamWOptions(0.01).eps(1e-4)))};
  }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    auto first = optimizer(0);
    auto second = optimizer(1);
    first.zero_grad();
    second.zero_grad();
    auto loss = F::cross_entropy(forward(x), y);
    manual_backward(loss);
    first.step();
    second.clip_by_norm(0.05);
    second.step();
    return loss;
  }
};

class InTurnModule : public CaseModule {
  OptimizerConfig configure_optimizers() override {
    return {OptimizerConfig(std::make_unique<optim::SGD>(fc1_->parameters(), 0.05)).frequency(1),
            OptimizerConfig(std::make_unique<optim::AdamW>(fc2_->parameters(),
                                                           optim::AdamWOptions(0.01).eps(1e-4)))
                .frequency(2)};
  }
};

/// Images of digits, or text, for the modules of the examples.
class ExampleData : public DataModule {
 public:
  explicit ExampleData(bool is_text) {
    const auto table = data::read_csv(tests_dir().parent_path() / "data/digits.csv.gz");
    const auto rows = table.narrow(0, 0, 101);
    if (is_text) {
      const auto tokens = rows.narrow(1, 0, 33).to(torch::kInt64);
      tensors_ = {tokens.narrow(1, 0, 32).contiguous(), tokens.narrow(1, 1, 32).contiguous()};
    } else {
      tensors_ = {rows.narrow(1, 0, 64).div(16).reshape({-1, 1, 8, 8}),
                  rows.select(1, 64).to(torch::kInt64)};
    }
  }
  DataLoader train_dataloader() override {
    return {std::make_shared<TensorDataset>(tensors_),
            {.global_batch_size = kGlobalBatch, .shuffle = true}};
  }
  DataLoader val_dataloader() override {
    return {std::make_shared<TensorDataset>(tensors_), {.batch_size = 7}};
  }

 private:
  std::vector<torch::Tensor> tensors_;
};

struct Case {
  std::function<std::shared_ptr<Module>()> module = [] { return std::make_shared<CaseModule>(); };
  std::function<std::shared_ptr<DataModule>()> data = [] { return std::make_shared<CaseData>(); };
  TrainerConfig config = {};
  bool logs_steps = false;
};

TrainerConfig base() {
  TrainerConfig config;
  config.precision = "64-true";
  config.max_steps = kSteps;
  config.logger = {};
  config.enable_checkpointing = false;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  return config;
}

template <class M>
std::shared_ptr<Module> make() {
  return std::make_shared<M>();
}

std::map<std::string, Case> cases() {
  std::map<std::string, Case> all;
  const auto add = [&](const std::string& name, const std::function<void(Case&)>& change) {
    Case one;
    one.config = base();
    change(one);
    all.emplace(name, std::move(one));
  };
  const auto uneven = [](Case& c) { c.data = [] { return std::make_shared<CaseData>(101); }; };
  add("plain", [](Case&) {});
  add("uneven", uneven);  // the last batch of an epoch has 5 samples
  add("one_left", [](Case& c) { c.data = [] { return std::make_shared<CaseData>(97); }; });
  add("accumulation", [&](Case& c) {
    c.config.accumulate_grad_batches = 3;
    uneven(c);
  });
  add("clip_norm", [](Case& c) { c.config.gradient_clip_val = 0.3; });
  add("clip_value", [](Case& c) {
    c.config.gradient_clip_val = 0.01;
    c.config.gradient_clip_algorithm = "value";
  });
  add("float32", [](Case& c) { c.config.precision = "32-true"; });
  add("bf16_mixed", [](Case& c) { c.config.precision = "bf16-mixed"; });
  add("fp16_mixed", [](Case& c) { c.config.precision = "16-mixed"; });
  add("unused", [&](Case& c) {
    c.module = make<UnusedModule>;
    uneven(c);
  });
  add("weighted", [&](Case& c) {
    c.module = make<WeightedModule>;
    uneven(c);
  });
  add("by_hand", [&](Case& c) {
    c.module = make<ByHandModule>;
    uneven(c);
  });
  add("two_steps", [&](Case& c) {
    c.module = make<TwoStepsModule>;
    uneven(c);
  });
  add("in_turn", [](Case& c) { c.module = make<InTurnModule>; });
  add("stream", [](Case& c) { c.data = [] { return std::make_shared<StreamData>(101); }; });
  add("sync_batchnorm", [&](Case& c) {
    c.module = make<SyncBatchNormModule>;
    c.config.sync_batchnorm = true;
    // LibTorch's layers refuse a batch of one value for each channel, before any operator runs.
    c.data = [] { return std::make_shared<CaseData>(105); };
  });
  for (const bool runs_again : {false, true}) {
    add(runs_again ? "checkpointed" : "blocks", [&](Case& c) {
      c.module = make<BlocksModule>;
      c.config.activation_checkpointing.all = runs_again;
      c.config.accumulate_grad_batches = 3;
    });
  }
  add("lamb", [&](Case& c) {
    c.module = make<GroupsModule<optim::LAMB, optim::LAMBOptions>>;
    uneven(c);
  });
  add("muon", [&](Case& c) {
    c.module = make<GroupsModule<optim::Muon, optim::MuonOptions>>;
    uneven(c);
  });
  add("schedule_free", [&](Case& c) {
    c.module = make<GroupsModule<optim::ScheduleFreeAdamW, optim::ScheduleFreeAdamWOptions>>;
    uneven(c);
  });
  for (const bool accumulates : {false, true}) {
    const std::string more = accumulates ? "_accumulation_clip" : "";
    const auto change = [accumulates](Case& c) {
      c.logs_steps = true;
      c.config.accumulate_grad_batches = accumulates ? 3 : 1;
      c.config.gradient_clip_val = accumulates ? 0.5 : 0;
    };
    add("digits" + more, [&](Case& c) {
      c.module = [] {
        config::Node arguments = config::Node::map();
        arguments.set("dropout", config::Node::scalar("0"));
        return Spec<Module>("DigitsCNN", arguments).create();
      };
      c.data = [] { return std::make_shared<ExampleData>(/*is_text=*/false); };
      change(c);
    });
    add("gpt" + more, [&](Case& c) {
      c.module = [] {
        config::Node arguments = config::Node::map();
        for (const auto& [key, value] :
             {std::pair("block_size", "32"), std::pair("dim", "32"), std::pair("num_heads", "2")}) {
          arguments.set(key, config::Node::scalar(value));
        }
        return Spec<Module>("GPT", arguments).create();
      };
      c.data = [] { return std::make_shared<ExampleData>(/*is_text=*/true); };
      change(c);
    });
  }
  all["gpt_checkpointed"] = all.at("gpt");
  all["gpt_checkpointed"].config.activation_checkpointing.patterns = {"h.*"};
  if (world().size() > 1) {  // alone they are as "plain" and "unused"
    add("static_graph", [](Case& c) { c.config.strategy = use<DDP>({.static_graph = true}); });
    add("small_buckets", [&](Case& c) {
      c.module = make<UnusedModule>;
      c.config.strategy = use<DDP>({.bucket_mb = 0.001});
      uneven(c);
    });
  }
  return all;
}

void run(const std::string& name, const Case& one, const fs::Path& out) {
  seed_everything(7);
  const auto module = one.module();
  const auto data = one.data();
  TrainerConfig config = one.config;
  config.default_root_dir = (out / name).string();
  if (const char* strategy = std::getenv("DDP_CASES_STRATEGY")) {
    config::Diagnostics diagnostics;
    config::Codec<Spec<Strategy>>::read(config::parse_yaml(strategy, "DDP_CASES_STRATEGY"),
                                        "strategy", diagnostics, config.strategy);
    diagnostics.throw_if_any();
  }
  if (const char* stop = std::getenv("DDP_CASES_STOP")) {
    config.max_steps = std::stoll(stop);
    config.enable_checkpointing = true;
  }
  Trainer trainer(config);
  Trainer::CkptPath ckpt_path;
  if (const char* folder = std::getenv("DDP_CASES_RESUME")) {
    trainer.set_run(fs::Path(folder) / name / "version_0");
    ckpt_path = "last";
  }
  trainer.fit(*module, *data, ckpt_path);
  if (!world().is_global_zero()) {
    return;
  }
  safetensors::Tensors tensors;
  for (const auto& item : module->named_parameters()) {
    tensors.emplace_back("weight/" + item.key(), item.value().detach());
  }
  for (const auto& [metric, value] : trainer.callback_metrics()) {
    if (one.logs_steps && (metric == "train_loss" || metric == "train_loss_step")) {
      continue;  // of rank 0's newest batch
    }
    tensors.emplace_back("metric/" + metric, torch::tensor({value}, torch::kFloat64));
  }
  safetensors::save(out / (name + ".safetensors"), tensors);
}

int main_of_cases(int argc, char** argv) {
  register_builtins();
  for (const char* plugin : {"digits", "gpt"}) {
    load_plugin(plugin);
  }
  const fs::Path out = argv[1];
  const std::vector<std::string> wanted(argv + 2, argv + argc);
  for (const auto& [name, one] : cases()) {
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end()) {
      run(name, one, out);
    }
  }
  return 0;
}

}  // namespace
}  // namespace trainer::test

int main(int argc, char** argv) {
  try {
    return trainer::test::main_of_cases(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "rank " << trainer::world().rank() << ": " << error.what() << std::endl;
    trainer::world().abort(1);
    return 1;
  }
}
