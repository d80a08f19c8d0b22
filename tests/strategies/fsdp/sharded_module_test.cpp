// Modules made of LibTorch's own parts, sharded, against the same ones whole: loss, gradients and
// weights after steps, with each way of interception.

#include <strategies/fsdp/sharded_module.h>

#include <functional>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/memory.h>

namespace trainer {
namespace {

namespace nn = torch::nn;

/// A module and what a step does with it.
struct Kind {
  std::string name;
  std::function<std::shared_ptr<nn::Module>()> make;
  std::function<torch::Tensor(nn::Module&, int rank)> loss;
};

torch::Tensor numbers(const std::vector<int64_t>& sizes, int rank) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(7 + rank));
  return torch::randn(sizes, generator, torch::kFloat64);
}

class Rotated : public torch::autograd::Function<Rotated> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* ctx, const torch::Tensor& x,
                               const torch::Tensor& weight) {
    ctx->save_for_backward({x, weight});
    return x.mm(weight);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    return {gradients[0].mm(saved[1].t()), saved[0].t().mm(gradients[0])};
  }
};

nn::Sequential linears(int64_t count) {
  nn::Sequential layers;
  for (int64_t i = 0; i < count; ++i) {
    layers->push_back(nn::Linear(8, 8));
  }
  return layers;
}

std::vector<Kind> kinds() {
  const auto sequential = [](nn::Module& module, const torch::Tensor& x) {
    return dynamic_cast<nn::SequentialImpl&>(module).forward(x).pow(2).mean();
  };
  return {
      {"LSTM, two layers, both directions",
       [] { return nn::LSTM(nn::LSTMOptions(8, 16).num_layers(2).bidirectional(true)).ptr(); },
       [](nn::Module& m, int rank) {
         return std::get<0>(dynamic_cast<nn::LSTMImpl&>(m).forward(numbers({5, 3, 8}, rank)))
             .pow(2)
             .mean();
       }},
      {"GRU", [] { return nn::GRU(nn::GRUOptions(8, 16)).ptr(); },
       [](nn::Module& m, int rank) {
         return std::get<0>(dynamic_cast<nn::GRUImpl&>(m).forward(numbers({5, 3, 8}, rank)))
             .pow(2)
             .mean();
       }},
      {"convolutions in channels-last",
       [] {
         return nn::Sequential(nn::Conv2d(nn::Conv2dOptions(3, 8, 3).padding(1)),
                               nn::GroupNorm(2, 8), nn::ReLU(), nn::ConvTranspose2d(8, 4, 2),
                               nn::Flatten(), nn::Linear(4 * 81, 5))
             .ptr();
       },
       [=](nn::Module& m, int rank) {
         return sequential(m,
                           numbers({2, 3, 8, 8}, rank).contiguous(at::MemoryFormat::ChannelsLast));
       }},
      {"embedding and PReLU",
       [] { return nn::Sequential(nn::Embedding(20, 8), nn::PReLU(), nn::Linear(8, 3)).ptr(); },
       [=](nn::Module& m, int rank) {
         return sequential(m, numbers({4, 6}, rank).abs().mul(8).to(torch::kInt64).clamp(0, 19));
       }},
      {"Transformer",
       [] {
         return nn::Transformer(
                    nn::TransformerOptions(16, 2, 2, 2).dim_feedforward(32).dropout(0.0))
             .ptr();
       },
       [](nn::Module& m, int rank) {
         return dynamic_cast<nn::TransformerImpl&>(m)
             .forward(numbers({5, 2, 16}, rank), numbers({4, 2, 16}, rank + 10))
             .pow(2)
             .mean();
       }},
      {"TransformerEncoder with dropout",
       [] {
         return nn::TransformerEncoder(
                    nn::TransformerEncoderOptions(
                        nn::TransformerEncoderLayerOptions(16, 2).dim_feedforward(32).dropout(0.3),
                        3))
             .ptr();
       },
       [](nn::Module& m, int rank) {
         torch::manual_seed(static_cast<uint64_t>(100 + rank));
         return dynamic_cast<nn::TransformerEncoderImpl&>(m)
             .forward(numbers({5, 2, 16}, rank))
             .pow(2)
             .mean();
       }},
      {"a frozen layer in the middle",
       [] {
         auto layers = linears(3);
         for (auto& parameter : layers[1]->parameters()) {
           parameter.set_requires_grad(false);
         }
         return layers.ptr();
       },
       [=](nn::Module& m, int rank) {
         return sequential(m, numbers({4, 8}, rank));
       }},
      {"an unused layer", [] { return linears(3).ptr(); },
       [](nn::Module& m, int rank) {
         auto& layers = dynamic_cast<nn::SequentialImpl&>(m);
         return layers[2]
             ->as<nn::Linear>()
             ->forward(layers[0]->as<nn::Linear>()->forward(numbers({4, 8}, rank)))
             .pow(2)
             .mean();
       }},
      {"two layers in turn", [] { return linears(2).ptr(); },
       [](nn::Module& m, int rank) {
         auto& layers = dynamic_cast<nn::SequentialImpl&>(m);
         auto x = numbers({4, 8}, rank);
         for (int i = 0; i < 3; ++i) {
           x = layers[1]->as<nn::Linear>()->forward(
               torch::tanh(layers[0]->as<nn::Linear>()->forward(x)));
         }
         return x.pow(2).mean();
       }},
      {"weights used by hand", [] { return linears(2).ptr(); },
       [](nn::Module& m, int rank) {
         auto& layers = dynamic_cast<nn::SequentialImpl&>(m);
         const auto a = layers[0]->as<nn::Linear>()->weight;
         const auto b = layers[1]->as<nn::Linear>()->weight;
         return (torch::einsum("bi,oi->bo", {numbers({4, 8}, rank), a}) + b[0] + (a * b).sum() +
                 torch::cat({a, b}).slice(0, 2, 6) + b.index({torch::tensor({1, 3, 5, 7})}))
                    .pow(2)
                    .mean() +
                b.norm() + nn::functional::normalize(a).sum();
       }},
      {"an autograd function that keeps a weight", [] { return linears(2).ptr(); },
       [](nn::Module& m, int rank) {
         auto& layers = dynamic_cast<nn::SequentialImpl&>(m);
         return layers
             .forward(Rotated::apply(numbers({4, 8}, rank), layers[1]->as<nn::Linear>()->weight))
             .pow(2)
             .mean();
       }},
      {"tied weights",
       [] {
         auto layers = linears(3);
         layers[2]->as<nn::Linear>()->weight = layers[0]->as<nn::Linear>()->weight;
         return layers.ptr();
       },
       [=](nn::Module& m, int rank) {
         return sequential(m, numbers({4, 8}, rank));
       }},
      {"two backward passes' gradients in one step", [] { return linears(3).ptr(); },
       [=](nn::Module& m, int rank) {
         sequential(m, numbers({4, 8}, rank + 20)).backward();
         return sequential(m, numbers({4, 8}, rank));
       }},
  };
}

/// How operators are met, and where what they use lies.
struct Way {
  Interception interception;
  bool shares_memory;
};

class ShardedModuleTest : public test::CommunicatorFixture,
                          public testing::WithParamInterface<Way> {
 protected:
  static std::shared_ptr<nn::Module> make(const Kind& kind) {
    torch::manual_seed(1);
    auto module = kind.make();
    module->to(torch::kFloat64);
    return module;
  }
  static ShardingOptions options() {
    return {.interception = GetParam().interception, .shares_memory = GetParam().shares_memory};
  }
};

/// What every rank computes together with the others, in one process: the mean of their losses.
struct Reference {
  std::shared_ptr<nn::Module> module;
  std::vector<double> losses;
};

Reference train_whole(const Kind& kind, const std::shared_ptr<nn::Module>& module, int ranks,
                      int steps) {
  Reference reference{module, {}};
  torch::optim::AdamW optimizer(module->parameters(), torch::optim::AdamWOptions(0.01));
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    double sum = 0;
    for (int r = 0; r < ranks; ++r) {
      const auto loss = kind.loss(*module, r);
      loss.backward();
      sum += loss.item<double>();
    }
    for (auto& parameter : module->parameters()) {
      if (parameter.grad().defined()) {
        parameter.mutable_grad() /= ranks;
      }
    }
    optimizer.step();
    reference.losses.push_back(sum / ranks);
  }
  return reference;
}

TEST_P(ShardedModuleTest, TrainsAsTheWholeModuleDoes) {
  constexpr int kSteps = 5;
  for (const auto& kind : kinds()) {
    SCOPED_TRACE(kind.name);
    const auto reference = train_whole(kind, make(kind), size(), kSteps);
    const auto module = make(kind);
    ShardedModule sharded(default_units(*module), comm(), nullptr, options());
    torch::optim::AdamW optimizer(module->parameters(), torch::optim::AdamWOptions(0.01));
    for (int step = 0; step < kSteps; ++step) {
      auto loss = kind.loss(*module, rank());
      loss.backward();
      auto mean = loss.detach().clone();
      comm().all_reduce(mean, ReduceOp::kMean);
      EXPECT_NEAR(mean.item<double>(), reference.losses[static_cast<size_t>(step)], 1e-12);
      std::vector<double> ranks = {1};
      sharded.finish_gradients(ranks);
      EXPECT_EQ(ranks[0], size());
      sharded.show_segments();
      optimizer.step();
      sharded.hide_segments();
      for (const auto& parameter : module->parameters()) {
        sharded.clear_gradient(parameter);
      }
    }
    const ShardedModule::WholeParameters whole(sharded);
    const auto expected = reference.module->named_parameters();
    for (const auto& item : module->named_parameters()) {
      const auto& other = expected[item.key()];
      ASSERT_EQ(item.value().sizes(), other.sizes());
      EXPECT_LE((item.value() - other).abs().max().item<double>(), 1e-12) << item.key();
    }
  }
}

TEST_P(ShardedModuleTest, HoldsItsSliceAndFreesWhatItGathered) {
  if (GetParam().shares_memory) {
    GTEST_SKIP() << "the whole is there once, for all ranks";
  }
  auto layers = linears(6);
  layers->to(torch::kFloat64);
  ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  ASSERT_EQ(sharded.units().size(), 6U);  // no parameter is left for the root
  const auto gathered = [&] {
    return std::count_if(sharded.units().begin(), sharded.units().end(),
                         [](const auto& unit) { return unit->is_gathered(); });
  };
  for (const auto& unit : sharded.units()) {
    EXPECT_EQ(unit->layout().shard_numel() * size(), unit->layout().numel());
    EXPECT_LE(unit->layout().numel(), 8 * 8 + 8 + 8 + 16 * size());
  }
  EXPECT_EQ(gathered(), 0);
  auto x = torch::ones({2, 8}, torch::kFloat64);
  for (size_t i = 0; i < 6; ++i) {
    x = layers[i]->as<nn::Linear>()->forward(x);
    EXPECT_EQ(gathered(), 1);
  }
  x.sum().backward();
  EXPECT_EQ(gathered(), 0);
}

TEST_P(ShardedModuleTest, WritesToParametersStay) {
  auto layers = linears(2);
  layers->to(torch::kFloat64);
  ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  {
    const torch::NoGradGuard no_grad;
    layers[0]->as<nn::Linear>()->weight.fill_(2);
    nn::init::constant_(layers[1]->as<nn::Linear>()->weight, 3);
  }
  sharded.release_all();
  EXPECT_EQ(layers[0]->as<nn::Linear>()->weight.sum().item<double>(), 128);
  EXPECT_EQ(layers[1]->as<nn::Linear>()->weight.sum().item<double>(), 192);
}

TEST_P(ShardedModuleTest, MemoryReadWithoutAnOperatorIsRefusedByTheUnitsName) {
  auto layers = linears(2);
  layers->to(torch::kFloat64);
  const ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  try {
    (void)layers[1]->as<nn::Linear>()->weight.const_data_ptr<double>();
    FAIL() << "read";
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what())
                  .find("FSDP: a parameter of unit '1' was read while it is sharded"),
              std::string::npos)
        << error.what();
  }
}

TEST_P(ShardedModuleTest, AnErrorInAPassLeavesTheNextOneWhole) {
  auto layers = linears(3);
  layers->to(torch::kFloat64);
  ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  const auto x = numbers({4, 8}, rank());
  EXPECT_ANY_THROW({
    const auto hidden = layers[0]->as<nn::Linear>()->forward(x);
    layers[1]->as<nn::Linear>()->forward(hidden.narrow(1, 0, 7));
  });
  auto loss = layers->forward(x).pow(2).mean();
  loss.register_hook(
      [](const torch::Tensor&) -> torch::Tensor { throw std::runtime_error("boom"); });
  EXPECT_ANY_THROW(loss.backward());
  layers->forward(x).pow(2).mean().backward();
  std::vector<double> none;
  sharded.finish_gradients(none);
  for (const auto& unit : sharded.units()) {
    for (size_t i = 0; i < unit->parameters().size(); ++i) {
      EXPECT_TRUE(unit->gradients().has(i)) << unit->parameters()[i].first;
    }
  }
}

TEST_P(ShardedModuleTest, ParametersAreOrdinaryAgainAlsoAfterAnError) {
  auto layers = linears(3);
  layers->to(torch::kFloat64);
  for (const auto& parameter : layers->parameters()) {
    comm().broadcast(parameter);
  }
  std::vector<torch::Tensor> before;
  for (const auto& parameter : layers->parameters()) {
    before.push_back(parameter.detach().clone());
  }
  {
    ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
    auto loss = layers->forward(numbers({4, 8}, rank())).pow(2).mean();
    loss.register_hook(
        [](const torch::Tensor&) -> torch::Tensor { throw std::runtime_error("boom"); });
    EXPECT_ANY_THROW(loss.backward());
    std::vector<double> none;
    sharded.finish_gradients(none);
    sharded.show_segments();
    sharded.make_whole();
  }
  const auto after = layers->parameters();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(after[i], before[i])) << i;
    EXPECT_NE(after[i].data_ptr(), nullptr);
  }
}

/// One buffer for what is gathered and one for gradients, however many sizes the units have.
TEST_P(ShardedModuleTest, UnitsOfDifferentSizesShareBuffers) {
  nn::Sequential layers;
  for (int64_t i = 0; i < 8; ++i) {
    layers->push_back(nn::Linear(100 + 100 * i, 200 + 100 * i));
  }
  int64_t whole = 0;
  for (const auto& parameter : layers->parameters()) {
    whole += static_cast<int64_t>(parameter.nbytes());
  }
  const int64_t before = test::shared_bytes();
  ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  for (int i = 0; i < 2; ++i) {
    layers->forward(torch::ones({2, 100})).sum().backward();
  }
  const int64_t largest = 4 * (900 * 800 + 900);
  const int64_t own = 2 * whole / size() + 4 * largest;  // slices and their gradients, and buffers
  if (size() == 2) {  // of more, this process sees what others have written, too
    EXPECT_LE(test::shared_bytes() - before, 2 * own);
  }
}

TEST_P(ShardedModuleTest, AParameterThatLeftItsUnitIsNamed) {
  const auto expect_named = [](const std::string& name, const std::function<void()>& action) {
    try {
      action();
      FAIL() << "computed";
    } catch (const std::exception& error) {
      EXPECT_NE(std::string(error.what()).find("parameter '" + name + "' has left its unit"),
                std::string::npos)
          << error.what();
    }
  };
  const auto make_layers = [] {
    auto layers = linears(2);
    layers->to(torch::kFloat64);
    return layers;
  };
  auto one = make_layers();
  const ShardedModule of_one(default_units(*one), comm(), nullptr, options());
  one[1]->as<nn::Linear>()->weight.set_data(torch::ones({8, 8}, torch::kFloat64));
  expect_named("1.weight", [&] {
    one->forward(torch::ones({2, 8}, torch::kFloat64)).sum().backward();
  });
  auto all = make_layers();
  const ShardedModule of_all(default_units(*all), comm(), nullptr, options());
  all->to(torch::kFloat32);
  // The bias gets its gradient first.
  expect_named("1.bias", [&] { all->forward(torch::ones({2, 8})).sum().backward(); });
}

/// Also where a parameter of one unit gets a gradient on one rank only, and other units follow.
TEST_P(ShardedModuleTest, ALayerThatOneRankUsesIsReducedOnAll) {
  const auto loss = [](nn::SequentialImpl& layers, const torch::Tensor& gate, int rank) {
    auto hidden = layers.forward(numbers({4, 8}, rank));
    return (rank == 0 ? hidden * gate : hidden).pow(2).mean();
  };
  torch::manual_seed(3);
  auto whole = linears(4);
  whole->to(torch::kFloat64);
  const auto gate = torch::ones({8}, torch::dtype(torch::kFloat64).requires_grad(true));
  for (int r = 0; r < size(); ++r) {
    (loss(*whole, gate, r) / size()).backward();
  }
  torch::manual_seed(3);
  auto layers = linears(4);
  layers->to(torch::kFloat64);
  const auto own_gate = torch::ones({8}, torch::dtype(torch::kFloat64).requires_grad(true));
  auto plan = default_units(*layers);
  plan.back().parameters.emplace_back("gate", own_gate);
  ShardedModule sharded(plan, comm(), nullptr, options());
  for (int pass = 1; pass <= 2; ++pass) {  // the second one adds
    loss(*layers, own_gate, rank()).backward();
  }
  std::vector<double> none;
  sharded.finish_gradients(none);
  sharded.show_segments();
  const auto expect_same = [&](const torch::Tensor& parameter, const torch::Tensor& expected) {
    const auto parts = comm().all_gather_uneven(parameter.grad());
    EXPECT_TRUE(torch::allclose(torch::cat(parts), 2 * expected.grad().flatten(), 1e-12, 1e-14));
  };
  expect_same(own_gate, gate);
  for (size_t i = 0; i < 8; ++i) {
    expect_same(layers->parameters()[i], whole->parameters()[i]);
  }
  sharded.make_whole();
}

/// Operators see bfloat16, the optimizer what was there before; what is written stays.
TEST_P(ShardedModuleTest, ParametersAreUsedInAnotherDtypeThanTheyAreUpdatedIn) {
  auto layers = linears(3);
  std::vector<torch::Tensor> before;
  for (const auto& parameter : layers->parameters()) {
    comm().broadcast(parameter);
    before.push_back(parameter.detach().clone());
  }
  auto with_dtypes = options();
  with_dtypes.gathered_dtype = torch::kBFloat16;
  with_dtypes.reduced_dtype = torch::kFloat32;
  ShardedModule sharded(default_units(*layers), comm(), nullptr, with_dtypes);
  {
    const torch::NoGradGuard no_grad;
    layers[2]->as<nn::Linear>()->bias.narrow(0, 0, 1).fill_(3);
  }
  EXPECT_EQ(layers[0]->as<nn::Linear>()->weight.scalar_type(), torch::kBFloat16);
  const auto x = numbers({4, 8}, rank()).to(torch::kBFloat16);
  layers->forward(x).pow(2).mean().backward();
  std::vector<double> none;
  sharded.finish_gradients(none);
  sharded.show_segments();
  for (const auto& parameter : layers->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat32);
    EXPECT_EQ(parameter.grad().scalar_type(), torch::kFloat32);
  }
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : layers->parameters()) {
    gradients.push_back(torch::cat(comm().all_gather_uneven(parameter.grad())));
  }
  sharded.make_whole();
  before[5][0] = 3;
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(layers->parameters()[i], before[i])) << i;
  }
  auto whole = linears(3);  // the same in bfloat16, in one process
  whole->to(torch::kBFloat16);
  for (size_t i = 0; i < before.size(); ++i) {
    whole->parameters()[i].set_data(before[i].to(torch::kBFloat16));
  }
  for (int r = 0; r < size(); ++r) {
    whole->forward(numbers({4, 8}, r).to(torch::kBFloat16)).pow(2).mean().backward();
  }
  for (size_t i = 0; i < before.size(); ++i) {
    const auto expected = whole->parameters()[i].grad().to(torch::kFloat32).flatten() / size();
    EXPECT_LE((gradients[i] - expected).abs().max().item<double>(),
              0.02 * expected.abs().max().item<double>())
        << i;
  }
}

TEST_P(ShardedModuleTest, GradientsThatWereNotReducedAreForgottenByZeroGradAndNotByALook) {
  auto once = options();
  once.reduces_each_pass = false;
  auto layers = linears(2);
  layers->to(torch::kFloat64);
  ShardedModule sharded(default_units(*layers), comm(), nullptr, once);
  sharded.require_reduction(false);
  const auto x = torch::ones({1, 8}, torch::kFloat64);
  const auto pass = [&] { layers->forward(x).sum().backward(); };
  pass();
  for (const auto& parameter : layers->parameters()) {
    sharded.clear_gradient(parameter);
  }
  pass();
  { const ShardedModule::WholeParameters look(sharded); }
  sharded.require_reduction(true);
  pass();
  std::vector<double> none;
  sharded.finish_gradients(none);
  sharded.show_segments();
  { const ShardedModule::WholeParameters look(sharded); }
  EXPECT_TRUE(sharded.shows_segments());
  // Of each pass the gradient of the last bias is 1.
  const auto bias = torch::cat(comm().all_gather_uneven(layers->parameters()[3].grad()));
  EXPECT_TRUE(torch::equal(bias, torch::full({8}, 2, torch::kFloat64))) << bias;
}

/// Memory that a step needs is there while it is needed: a unit ahead is on its way, no more.
TEST_P(ShardedModuleTest, UnitsAreGatheredAheadOfTheirUse) {
  if (GetParam().shares_memory) {
    GTEST_SKIP() << "nothing is gathered";
  }
  auto layers = linears(5);
  layers->to(torch::kFloat64);
  auto ahead = options();
  ahead.prefetch = 2;
  ShardedModule sharded(default_units(*layers), comm(), nullptr, ahead);
  const auto under_way = [&] {
    std::string names;
    for (const auto& unit : sharded.units()) {
      names += unit->is_under_way() ? unit->name() : "";
    }
    return names;
  };
  const auto x = numbers({4, 8}, rank());
  layers->forward(x).pow(2).mean().backward();  // learns the order
  auto hidden = x;
  const std::vector<std::string> expected = {"12", "23", "34", "4", ""};
  for (size_t i = 0; i < 5; ++i) {
    hidden = layers[i]->as<nn::Linear>()->forward(hidden);
    EXPECT_EQ(under_way(), expected[i]) << i;
  }
  hidden.pow(2).mean().backward();
  EXPECT_EQ(under_way(), "");
}

TEST_P(ShardedModuleTest, RanksThatUseDifferentLayersAreNamed) {
  if (size() < 2) {
    GTEST_SKIP() << "one rank agrees with itself";
  }
  if (GetParam().shares_memory) {
    GTEST_SKIP() << "nothing is gathered that could differ";
  }
  auto layers = linears(2);  // of the same size
  const ShardedModule sharded(default_units(*layers), comm(), nullptr, options());
  const auto x = torch::ones({2, 8});
  try {
    rank() == 0 ? layers[0]->as<nn::Linear>()->forward(x) : layers[1]->as<nn::Linear>()->forward(x);
    FAIL() << "computed";
  } catch (const std::exception& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("is at all_gather of"), std::string::npos) << text;
    EXPECT_NE(text.find("with FSDP the same layers"), std::string::npos) << text;
  }
  comm().barrier();
}

INSTANTIATE_TEST_SUITE_P(
    Ways, ShardedModuleTest,
    testing::Values(Way{Interception::kDispatchKey, true}, Way{Interception::kObserver, true},
                    Way{Interception::kDispatchKey, false}, Way{Interception::kObserver, false}),
    [](const auto& info) {
      return std::string(info.param.interception == Interception::kDispatchKey ? "DispatchKey"
                                                                               : "Observer") +
             (info.param.shares_memory ? "InSharedMemory" : "Gathered");
    });

}  // namespace
}  // namespace trainer
