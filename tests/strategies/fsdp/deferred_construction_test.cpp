// Modules whose large layers have no memory until they are sharded, against the same ones made as
// ever: weights, later random numbers, a whole fit, and the memory that it takes.

#include <strategies/fsdp/deferred_construction.h>

#include <functional>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <strategies/fsdp.h>
#include <strategies/fsdp/sharded_module.h>
#include <trainer/core/error.h>
#include <trainer/world.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/peak_memory.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

constexpr size_t kAlmostAll = 64;  // bytes from which on tensors are deferred in these tests

struct Kind {
  std::string name;
  std::function<std::shared_ptr<nn::Module>()> make;
};

/// With the initialisation loop of language models, over what the layers have made of themselves.
struct GPTLike : nn::Module {
  GPTLike() {
    for (int64_t i = 0; i < 3; ++i) {
      h->push_back(nn::Sequential(nn::LayerNorm(nn::LayerNormOptions({16})), nn::Linear(16, 64),
                                  nn::GELU(), nn::Linear(64, 16)));
    }
    head->weight = wte->weight;  // before anything has values
    head->unregister_weight();
    const torch::NoGradGuard no_grad;
    for (auto& item : named_parameters()) {
      if (item.value().dim() >= 2) {
        item.value().normal_(0, item.key().ends_with("3.weight") ? 0.01 : 0.02);
      } else if (item.key().ends_with("bias")) {
        item.value().zero_();
      }
    }
  }
  struct HeadImpl : nn::LinearImpl {
    using LinearImpl::LinearImpl;
    void unregister_weight() { parameters_.erase("weight"); }
  };
  TORCH_MODULE(Head);
  nn::Embedding wte = register_module("wte", nn::Embedding(50, 16));
  nn::ModuleList h = register_module("h", nn::ModuleList());
  Head head = register_module("head", Head(nn::LinearOptions(16, 50).bias(false)));
};

/// What code does by hand: views, several operators, several results, what is real in between.
struct ByHand : nn::Module {
  ByHand() {
    scaled = register_parameter("scaled", torch::randn({8, 16}) * 0.02);
    auto weight = torch::empty({12, 8});
    {
      const torch::NoGradGuard no_grad;
      weight.narrow(0, 0, 4).normal_();
      weight.narrow(0, 4, 8).copy_(scaled.t().slice(0, 0, 8) + 1);
      weight[3].fill_(7);
      weight.t().mul_(torch::full({}, 0.5)).clamp_(-1, 1);
      weight.index_put_({torch::tensor({1, 2})}, torch::rand({8}));
      scaled.zero_();  // what was read of it counts
      scaled.add_(torch::randn({16}));
    }
    parts = register_parameter("parts", weight);
    orthogonal = register_parameter("orthogonal", torch::empty({9, 9}));
    nn::init::orthogonal_(orthogonal);
    nn::init::sparse_(register_parameter("sparse", torch::empty({9, 10})), 0.3);
    register_parameter("double", torch::eye(6).to(torch::kFloat64));
    register_parameter("frozen", torch::ones({40}) / 3, /*requires_grad=*/false);
    auto position = torch::arange(0, 40, torch::kFloat32).unsqueeze(1);
    auto table = torch::zeros({40, 8});
    const auto scale = torch::exp(torch::arange(0, 8, 2, torch::kFloat32) * -0.3);
    table.slice(1, 0, 8, 2) = torch::sin(position * scale);
    register_buffer("table", table);
    register_buffer("mask", torch::ones({9, 9}).triu(1).to(torch::kBool));
    loose = torch::linspace(0, 1, 100).cumsum(0);
    own = torch::rand({20}, at::make_generator<at::CPUGeneratorImpl>(uint64_t{5}));
    small = torch::tensor({1.0, 2.0});
  }
  Tensor scaled, parts, orthogonal, loose, own, small;
};

std::vector<Kind> kinds() {
  return {
      {"linear layers, embedding, norms",
       [] {
         return nn::Sequential(nn::Embedding(nn::EmbeddingOptions(30, 12).padding_idx(3)),
                               nn::LayerNorm(nn::LayerNormOptions({12})), nn::Linear(12, 40),
                               nn::Bilinear(4, 5, 6), nn::PReLU(), nn::BatchNorm1d(40))
             .ptr();
       }},
      {"convolutions",
       [] { return nn::Sequential(nn::Conv2d(3, 8, 3), nn::ConvTranspose1d(8, 4, 2)).ptr(); }},
      {"LSTM",
       [] { return nn::LSTM(nn::LSTMOptions(8, 16).num_layers(2).bidirectional(true)).ptr(); }},
      {"Transformer",
       [] {
         return nn::Transformer(nn::TransformerOptions(16, 2, 2, 2).dim_feedforward(32)).ptr();
       }},
      {"a language model", [] { return std::make_shared<GPTLike>(); }},
      {"by hand", [] { return std::make_shared<ByHand>(); }},
      {"in bfloat16",
       [] {
         const auto module = nn::Sequential(nn::Linear(20, 20), nn::Linear(20, 20)).ptr();
         module->to(torch::kBFloat16);
         return module;
       }},
  };
}

class DeferredConstructionTest : public test::CommunicatorFixture {
 protected:
  static ShardingOptions options() {
    return {.before_sharding = [](const Tensor& parameter) {
      DeferredConstruction::materialize(parameter);
    }};
  }
};

TEST_F(DeferredConstructionTest, WeightsAreThoseOfAnOrdinaryConstructionBitForBit) {
  for (const size_t min_bytes : {kAlmostAll, size_t{600}, DeferredConstruction::kMinBytes}) {
    for (const auto& kind : kinds()) {
      SCOPED_TRACE(kind.name);
      torch::manual_seed(1);
      const auto expected = kind.make();
      const auto next = torch::rand({3});
      torch::manual_seed(1);
      DeferredConstruction deferred(min_bytes);
      std::shared_ptr<nn::Module> module;
      {
        const auto scope = deferred.scope();
        module = kind.make();
      }
      EXPECT_TRUE(torch::equal(torch::rand({3}), next));
      bool is_deferred = false;
      for (const auto& parameter : module->parameters()) {
        is_deferred |= DeferredConstruction::is_deferred(parameter);
      }
      EXPECT_TRUE(is_deferred || min_bytes > kAlmostAll);
      ShardedModule sharded(default_units(*module), comm(), nullptr, options());
      const ShardedModule::WholeParameters whole(sharded);
      const auto parameters = module->named_parameters();
      for (const auto& item : expected->named_parameters()) {
        const auto& actual = parameters[item.key()];
        EXPECT_TRUE(torch::equal(actual, item.value())) << item.key();
        EXPECT_EQ(actual.requires_grad(), item.value().requires_grad());
      }
      EXPECT_EQ(parameters.size(), expected->named_parameters().size());
      const auto buffers = module->named_buffers();
      for (const auto& item : expected->named_buffers()) {
        DeferredConstruction::materialize(buffers[item.key()]);
        EXPECT_TRUE(torch::equal(buffers[item.key()], item.value())) << item.key();
        EXPECT_FALSE(DeferredConstruction::is_deferred(buffers[item.key()]));
      }
    }
  }
}

TEST_F(DeferredConstructionTest, WhatIsLeftGetsItsValuesWhenItIsUsed) {
  torch::manual_seed(1);
  const ByHand expected;
  torch::manual_seed(1);
  std::shared_ptr<ByHand> module;
  {
    DeferredConstruction deferred(kAlmostAll);
    const auto scope = deferred.scope();
    module = std::make_shared<ByHand>();
  }
  EXPECT_TRUE(DeferredConstruction::is_deferred(module->loose));
  EXPECT_FALSE(DeferredConstruction::is_deferred(module->small));
  const auto view = module->parts.detach().t();
  EXPECT_TRUE(torch::equal(module->loose + 0, expected.loose));
  EXPECT_TRUE(torch::equal(module->own, expected.own));
  EXPECT_TRUE(torch::equal(view, expected.parts.t()));
  EXPECT_TRUE(torch::equal(module->parts, expected.parts));
  EXPECT_EQ(module->parts.const_data_ptr(), view.const_data_ptr());
  (module->loose.sum() * module->parts.sum()).backward();
  EXPECT_TRUE(module->parts.grad().defined());
}

TEST_F(DeferredConstructionTest, ReadingWhatHasNoValuesIsRefused) {
  DeferredConstruction deferred(kAlmostAll);
  const auto scope = deferred.scope();
  const auto weight = torch::rand({100, 100});
  const auto text = test::thrown<UsageError>([&] { (void)weight.sum().item<float>(); });
  EXPECT_NE(text.find("FSDP, deferred construction: aten::_local_scalar_dense needs values of a "
                      "tensor that has none yet"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("make the tensor in the constructor of the module"), std::string::npos);
  EXPECT_ANY_THROW((void)torch::equal(weight, weight));
  EXPECT_NE(test::thrown<UsageError>([&] {
              weight.detach().t_();
            }).find("aten::t_ gives another shape to a tensor that has no memory yet"),
            std::string::npos);
  try {
    (void)weight.const_data_ptr();
    FAIL() << "read";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find("the memory of a tensor was asked for before"),
              std::string::npos)
        << error.what();
  }
}

TEST_F(DeferredConstructionTest, AWriteToSomeThatHaveValuesAndSomeThatHaveNone) {
  torch::manual_seed(1);
  const auto expected = torch::rand({100}) * 0.5;
  torch::manual_seed(1);
  const auto real = torch::ones({100});
  DeferredConstruction deferred(kAlmostAll);
  Tensor weight;
  {
    const auto scope = deferred.scope();
    weight = torch::rand({100});
    const auto text = test::thrown<UsageError>([&] { at::_foreach_mul_({weight, real}, 0.25); });
    EXPECT_NE(text.find("aten::_foreach_mul_.Scalar writes to tensors that have no memory yet and "
                        "to others together. Call it for one tensor at a time. "),
              std::string::npos)
        << text;
    at::_foreach_mul_({weight}, 0.5);
  }
  EXPECT_EQ(real.sum().item<float>(), 100);
  DeferredConstruction::materialize(weight);
  EXPECT_TRUE(torch::equal(weight, expected));
}

TEST_F(DeferredConstructionTest, ATensorThatWasTakenAndWrittenToLaterIsRefused) {
  auto source = torch::ones({100});
  DeferredConstruction deferred(kAlmostAll);
  Tensor weight, other;
  {
    const auto scope = deferred.scope();
    weight = torch::zeros({100});
    weight.copy_(source);
    other = torch::ones({100});
    source.add_(other);  // has memory, so it is written to at once
  }
  EXPECT_EQ(source.sum().item<float>(), 200);
  EXPECT_NE(test::thrown<UsageError>([&] {
              DeferredConstruction::materialize(weight);
            }).find("took a tensor that was written to later"),
            std::string::npos);
}

TEST_F(DeferredConstructionTest, ARankNeverHoldsMuchMoreThanItsSlice) {
  constexpr int64_t kLayers = 20, kDim = 1600;
  constexpr int64_t kLayer = 4 * kDim * (kDim + 1), kWhole = kLayers * kLayer;  // 205 MB
  const auto make = [&] {
    nn::Sequential layers;
    for (int64_t i = 0; i < kLayers; ++i) {
      layers->push_back(nn::Linear(kDim, kDim));
    }
    const torch::NoGradGuard no_grad;
    for (auto& parameter : layers->parameters()) {
      parameter.normal_(0, 0.02);
    }
    return layers;
  };
  {
    const test::ResidentGrowth peak;
    const auto layers = make();
    EXPECT_GE(peak.bytes(), kWhole / 10 * 9);
  }
  comm().barrier();
  const test::ResidentGrowth peak;
  DeferredConstruction deferred;
  std::optional<nn::Sequential> layers;
  {
    const auto scope = deferred.scope();
    layers.emplace(make());
  }
  EXPECT_LE(peak.bytes(), 3 * kLayer);
  const ShardedModule sharded(default_units(**layers), comm(), nullptr, options());
  EXPECT_LE(peak.bytes(), kWhole / size() + 4 * kLayer);
  comm().barrier();
}

/// Layers that configure_model() builds.
class LateModule : public Module {
 public:
  void configure_model() override {
    if (layers_.is_empty()) {
      layers_ = register_module(
          "layers", nn::Sequential(nn::Linear(6, 90), nn::Tanh(), nn::Linear(90, 90), nn::Tanh(),
                                   nn::Linear(90, 2)));
      offset_ = register_buffer("offset", torch::rand({90, 90}));
      const torch::NoGradGuard no_grad;
      for (auto& parameter : layers_->parameters()) {
        parameter.normal_(0, 0.1);
      }
      was_deferred = DeferredConstruction::is_deferred(layers_[2]->as<nn::Linear>()->weight);
    }
  }
  Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto loss = nn::functional::cross_entropy(layers_->forward(x), y) + offset_.mean();
    log("train_loss", loss);
    return loss;
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::AdamW>(parameters(), optim::AdamWOptions(0.01));
  }
  bool was_deferred = false;

 private:
  nn::Sequential layers_ = nullptr;
  Tensor offset_;
};

TEST_F(DeferredConstructionTest, AFitIsTheSame) {
  for (const std::string precision : {"32-true", "64-true", "bf16-mixed"}) {
    const auto weights = [&](bool is_deferred) {
      seed_everything(11);
      LateModule module;
      test::ToyData data;
      TrainerConfig config = test::quiet();
      config.strategy = use<FSDP>({.deferred_construction = is_deferred});
      config.precision = precision;
      config.max_epochs = 2;
      Trainer(config).fit(module, data);
      EXPECT_EQ(module.was_deferred, is_deferred);
      Trainer(config).fit(module, data);  // nothing is left to build
      return test::flat_weights(module);
    };
    EXPECT_TRUE(torch::equal(weights(true), weights(false))) << precision;
  }
}

/// Weights of a checkpoint are recorded as what they are: one more write.
TEST_F(DeferredConstructionTest, ARunIsResumed) {
  std::optional<test::TempDir> own;
  if (rank() == 0) {
    own.emplace();
  }
  const std::string dir = world().broadcast(own ? own->path().string() : "");
  const auto fit = [&](int64_t epochs, bool is_deferred, bool is_resumed) {
    seed_everything(11);
    LateModule module;
    test::ToyData data;
    TrainerConfig config = test::quiet();
    config.strategy = use<FSDP>({.deferred_construction = is_deferred});
    config.enable_checkpointing = !is_resumed;
    config.max_epochs = epochs;
    config.default_root_dir = dir;
    Trainer trainer(config);
    if (is_resumed) {
      trainer.set_run(dir + "/version_0");
    }
    trainer.fit(module, data, is_resumed ? Trainer::CkptPath("last") : std::nullopt);
    EXPECT_EQ(module.was_deferred, is_deferred);
    return test::flat_weights(module);
  };
  fit(1, true, false);
  const auto resumed = fit(2, true, true);
  EXPECT_TRUE(torch::equal(resumed, fit(2, false, true)));
  EXPECT_TRUE(torch::equal(resumed, fit(2, false, false)));
  comm().barrier();
}

}  // namespace
}  // namespace trainer
