// Checkpointed blocks against the same ones called plainly: outputs, gradients and later random
// numbers bit for bit, and the memory that a pass holds.

#include <trainer/activation_checkpointing.h>

#include <functional>

#include <ATen/autocast_mode.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <trainer/checkpointed_blocks.h>
#include <trainer/core/seed.h>
#include <trainer/precision.h>

#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer {
namespace {

namespace nn = torch::nn;
using torch::Tensor;

struct BlockImpl : nn::Module {
  explicit BlockImpl(int64_t dim = 8)
      : fc(register_module("fc", nn::Linear(dim, 4 * dim))),
        out(register_module("out", nn::Linear(4 * dim, dim))),
        drop(register_module("drop", nn::Dropout(0.3))) {}
  Tensor forward(const Tensor& x) { return x + drop(out(torch::gelu(fc(x)))); }
  nn::Linear fc, out;
  nn::Dropout drop;
};
TORCH_MODULE(Block);

struct Blocks : nn::Module {
  explicit Blocks(int64_t count = 3, int64_t dim = 8) {
    for (int64_t i = 0; i < count; ++i) {
      h->push_back(Block(dim));
    }
  }
  std::shared_ptr<BlockImpl> block(size_t i) {
    return std::dynamic_pointer_cast<BlockImpl>(h->ptr(i));
  }
  Tensor forward(Tensor x) {
    for (size_t i = 0; i < h->size(); ++i) {
      x = checkpointed(block(i), x);
    }
    return x;
  }
  nn::ModuleList h = register_module("h", nn::ModuleList());
};

/// What a pass computed: the loss, all gradients, and a number drawn after it.
using Outcome = std::vector<Tensor>;

Outcome outcome_of(const std::function<Tensor(Blocks&, const Tensor&)>& loss_of, bool is_on,
                   const std::function<void(Blocks&)>& change = {}) {
  torch::manual_seed(1);
  Blocks module;
  if (change) {
    change(module);
  }
  CheckpointedBlocks chosen({.all = is_on}, module);
  const auto x = torch::randn({5, 8}, module.parameters()[0].dtype()).requires_grad_(true);
  const auto loss = loss_of(module, x);
  loss.backward();
  Outcome outcome = {loss.detach(), x.grad(), torch::rand({3})};
  for (const auto& parameter : module.parameters()) {
    outcome.push_back(parameter.grad());
  }
  return outcome;
}

void expect_equal(const Outcome& actual, const Outcome& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << i;
    EXPECT_TRUE(!expected[i].defined() || torch::equal(actual[i], expected[i])) << i;
  }
}

void expect_same_as_plain(const std::function<Tensor(Blocks&, const Tensor&)>& loss_of,
                          const std::function<void(Blocks&)>& change = {}) {
  expect_equal(outcome_of(loss_of, true, change), outcome_of(loss_of, false, change));
}

TEST(ActivationCheckpointing, GradientsAreThoseOfThePlainCallBitForBit) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) { return m.forward(x).pow(2).sum(); });
}

TEST(ActivationCheckpointing, FrozenLayersAndInputsWithoutAGradient) {
  const auto loss = [](Blocks& m, const Tensor& x) { return m.forward(x.detach()).pow(2).sum(); };
  expect_same_as_plain(loss);
  expect_same_as_plain(loss, [](Blocks& m) { m.block(0)->fc->weight.set_requires_grad(false); });
}

TEST(ActivationCheckpointing, ABlockThatIsUsedTwice) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const auto once = checkpointed(m.block(0), x);
    return checkpointed(m.block(0), checkpointed(m.block(1), once)).pow(2).sum();
  });
}

TEST(ActivationCheckpointing, BlocksWithinBlocks) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const auto inner = [&m](const Tensor& y) { return m.forward(y) * torch::rand({8}); };
    return checkpointed(inner, checkpointed(inner, x)).pow(2).sum();
  });
}

TEST(ActivationCheckpointing, SeveralInputsAndOutputsOfEachKind) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const auto gate = torch::sigmoid(x);  // not an input of the lambda, but part of the graph
    const auto code = [&m, gate](const Tensor& a, const std::optional<Tensor>& b, double scale) {
      const auto y = m.block(0)->forward(a * scale);
      return std::tuple(y * gate, std::tuple(*b + y, y.argmax(1)), std::vector<Tensor>{y, {}});
    };
    const auto result = checkpointed(code, x, std::optional(x * 2), 0.5);
    const auto& [first, second, third] = result;
    return (first + std::get<0>(second)).pow(2).sum() + third[0].sum() +
           std::get<1>(second).sum() * 0;
  });
}

TEST(ActivationCheckpointing, AnOutputThatNobodyUses) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const auto code = [&m](const Tensor& a) {
      return std::pair(m.block(0)->forward(a), m.block(1)->forward(a));
    };
    return checkpointed(code, x).second.sum();
  });
}

TEST(ActivationCheckpointing, LSTMWithItsState) {
  const auto outcome = [](bool is_on) {
    torch::manual_seed(4);
    nn::LSTM lstm(nn::LSTMOptions(6, 7).num_layers(2).dropout(0.2));
    CheckpointedBlocks chosen({.all = is_on}, *lstm);
    auto [y, state] = checkpointed(lstm, torch::randn({4, 3, 6}));
    (y.sum() + std::get<1>(state).pow(2).sum()).backward();
    Outcome all;
    for (const auto& parameter : lstm->parameters()) {
      all.push_back(parameter.grad());
    }
    return all;
  };
  expect_equal(outcome(true), outcome(false));
}

TEST(ActivationCheckpointing, MixedPrecisionIsThatOfTheForwardPass) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const AutocastScope autocast(at::kCPU, at::kBFloat16);
    return m.forward(x).pow(2).sum().to(torch::kFloat32);
  });
}

TEST(ActivationCheckpointing, APassThatKeepsTheGraphIsFollowedByAnother) {
  expect_same_as_plain([](Blocks& m, const Tensor& x) {
    const auto y = m.forward(x).pow(2).sum();
    y.backward({}, /*keep_graph=*/true);
    return y * 2;
  });
}

TEST(ActivationCheckpointing, GradientsOfGradientsGoThroughWhatLiesBeforeTheBlock) {
  const auto loss = [](Blocks& m, const Tensor& x) {
    const auto y = m.forward(torch::tanh(x)).pow(2).sum();
    return y + torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true)[0].pow(2).sum();
  };
  const auto in_float64 = [](Blocks& m) { m.to(torch::kFloat64); };
  const auto actual = outcome_of(loss, true, in_float64);
  const auto expected = outcome_of(loss, false, in_float64);
  for (size_t i = 0; i < expected.size(); ++i) {  // sums have another order
    EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-12, 1e-13)) << i;
  }
}

TEST(ActivationCheckpointing, WithoutGradientsItCallsTheBlockOnce) {
  Blocks module;
  CheckpointedBlocks chosen({.all = true}, module);
  int calls = 0;
  const auto code = [&](const Tensor& x) {
    ++calls;
    return module.forward(x);
  };
  {
    const torch::NoGradGuard no_grad;
    EXPECT_FALSE(checkpointed(code, torch::ones({1, 8})).requires_grad());
  }
  EXPECT_EQ(calls, 1);
  checkpointed(code, torch::ones({1, 8})).sum().backward();
  EXPECT_EQ(calls, 3);
}

/// Bytes that LibTorch's allocator has handed out, at most, since it was made.
class PeakMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t now_ = 0, peak_ = 0;
};

TEST(ActivationCheckpointing, APassHoldsTheInputsOfBlocksAndTheTensorsOfOne) {
  constexpr int64_t kBlocks = 12, kDim = 32, kRows = 512;
  const auto peak_of = [&](const ActivationCheckpointing& choice) {
    Blocks module(kBlocks, kDim);
    CheckpointedBlocks chosen(choice, module);
    const auto x = torch::randn({kRows, kDim});
    for (const auto& parameter : module.parameters()) {
      parameter.mutable_grad() = torch::zeros_like(parameter);
    }
    const auto memory = std::make_shared<PeakMemory>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
    module.forward(x).sum().backward();
    return static_cast<double>(memory->peak());
  };
  const double row = 4.0 * kRows * kDim;  // an input of a block
  const double block = 13 * row;          // fc's output, gelu's, and what dropout keeps
  const double plain = peak_of({});
  const double all = peak_of({.all = true});
  EXPECT_GT(plain, kBlocks * 9 * row);
  EXPECT_LT(all, kBlocks * row + 2 * block);
  const double half = peak_of({.patterns = {"h.1*", "h.2", "h.3", "h.4"}});  // and 10, 11
  EXPECT_LT(half, (plain + all) / 2 + block);
  EXPECT_GT(half, (plain + all) / 2 - 2 * block);
}

TEST(ActivationCheckpointing, WritesToInputsAreToldOf) {
  Blocks module;
  CheckpointedBlocks chosen({.all = true}, module);
  const auto make_x = [] { return torch::randn({2, 8}).requires_grad_(true) * 1; };
  const auto in_block = [](Tensor x) { return torch::relu_(x) * 2; };
  EXPECT_NE(test::thrown<UsageError>([&] {
              checkpointed(in_block, make_x());
            }).find("input 0 of the block, [2, 8] Float, was written to in place"),
            std::string::npos);
  auto x = make_x();
  const auto y = checkpointed(module.block(0), x);
  x.add_(1);
  EXPECT_NE(test::thrown<UsageError>([&] { y.sum().backward(); }).find("was written to in place"),
            std::string::npos);
  auto same = checkpointed([](const Tensor& a) { return a.view({-1}); }, make_x());
  same.mul_(2);  // the input, in other words
  EXPECT_ANY_THROW(same.sum().backward());
}

TEST(ActivationCheckpointing, ABlockThatComputesSomethingElseTheSecondTimeIsToldOf) {
  Blocks module;
  CheckpointedBlocks chosen({.all = true}, module);
  int calls = 0;
  const auto code = [&](const Tensor& x) { return ++calls == 1 ? x * 2 : x.slice(0, 0, 1) * 2; };
  const auto y = checkpointed(code, torch::ones({2, 8}).requires_grad_(true));
  EXPECT_NE(test::thrown<UsageError>([&] { y.sum().backward(); }).find("computed something else"),
            std::string::npos);
}

TEST(ActivationCheckpointing, AnotherParameterTheSecondTimeIsToldOf) {
  Blocks module;
  CheckpointedBlocks chosen({.all = true}, module);
  size_t calls = 0;
  const auto code = [&](const Tensor& x) { return module.block(calls++)->forward(x); };
  const auto y = checkpointed(code, torch::ones({2, 8}));
  EXPECT_NE(test::thrown<UsageError>([&] { y.sum().backward(); }).find("computed something else"),
            std::string::npos);
}

TEST(ActivationCheckpointing, PatternsChooseByName) {
  Blocks module;
  CheckpointedBlocks chosen({.patterns = {"h.1", "*.fc"}}, module);
  EXPECT_FALSE(chosen.contains(module.block(0).get()));
  EXPECT_TRUE(chosen.contains(module.block(1).get()));
  EXPECT_TRUE(chosen.contains(module.block(2)->fc.get()));
  EXPECT_FALSE(chosen.contains(nullptr));
}

TEST(ActivationCheckpointing, AnyOfItsNamesChoosesABlock) {
  Blocks module;
  module.register_module("last", module.block(2));
  for (const std::string pattern : {"h.2", "last"}) {
    CheckpointedBlocks chosen({.patterns = {pattern}}, module);
    EXPECT_TRUE(chosen.contains(module.block(2).get())) << pattern;
    EXPECT_FALSE(chosen.contains(module.block(1).get())) << pattern;
  }
}

TEST(ActivationCheckpointing, APatternThatMatchesNothingIsToldWithTheNamesThereAre) {
  Blocks module;
  EXPECT_EQ(
      test::thrown<ConfigError>([&] {
        CheckpointedBlocks({.patterns = {"h.*", "blok*"}}, module);
      }),
      "trainer.activation_checkpointing: 'blok*' is the name of no module. There are: h, h.0, "
      "h.0.drop, h.0.fc, h.0.out, h.1, h.1.drop, h.1.fc, h.1.out, h.2, h.2.drop, h.2.fc, "
      "h.2.out.");
  CheckpointedBlocks chosen({.patterns = {"h.1", "*.fc"}}, module);
  module.forward(torch::ones({1, 8}));
  testing::internal::CaptureStderr();
  chosen.tell_of_unused();
  chosen.tell_of_unused();
  const auto text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("'*.fc' has no effect, since no module of that name is called through "
                      "trainer::checkpointed(). These are: h.0, h.1, h.2."),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("'h.1'"), std::string::npos) << text;
  EXPECT_EQ(text.find("has no effect", text.find("has no effect") + 1), std::string::npos) << text;
}

/// The same weights after a fit, whatever is chosen.
TEST(ActivationCheckpointing, AFitIsTheSame) {
  struct Net : test::ToyModule {
    Net() { blocks = register_module("blocks", std::make_shared<Blocks>(2, 6)); }
    Tensor training_step(const Batch& batch, int64_t batch_idx) override {
      Batch changed{blocks->forward(batch[0]), batch[1]};
      return ToyModule::training_step(changed, batch_idx);
    }
    std::shared_ptr<Blocks> blocks;
  };
  const auto weights = [](const ActivationCheckpointing& choice) {
    seed_everything(5);
    Net module;
    test::ToyData data;
    TrainerConfig config = test::quiet();
    config.max_epochs = 2;
    config.activation_checkpointing = choice;
    Trainer(config).fit(module, data);
    return test::flat_weights(module);
  };
  const auto plain = weights({});
  EXPECT_TRUE(torch::equal(weights({.all = true}), plain));
  EXPECT_TRUE(torch::equal(weights({.patterns = {"blocks.h.1"}}), plain));
}

}  // namespace
}  // namespace trainer
