// DDP under real mpirun: what it does to a module and its gradients, without a Trainer.

#include <strategies/ddp.h>

#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/profiler_legacy.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/world.h>

#include <tests/support/thrown.h>

namespace trainer::test {
namespace {

class Net : public torch::nn::Module {
 public:
  explicit Net(int64_t width = 100)
      : first(register_module("first", torch::nn::Linear(3, width))),
        second(register_module("second", torch::nn::Linear(width, 2))),
        spare(register_module("spare", torch::nn::Linear(2, 2))) {
    steps = register_buffer("steps", torch::zeros({1}));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::tanh(first(x))); }
  torch::nn::Linear first, second, spare;
  torch::Tensor steps;
};

class DDPTest : public testing::Test {
 protected:
  static int rank() { return world().rank(); }
  static int size() { return world().size(); }

  void set_up(DDP::Init init = {}) {
    torch::manual_seed(100 + rank());  // each rank draws other weights
    net_ = Net();
    net_.steps.fill_(rank());
    ddp_ = std::make_unique<DDP>(init);
    ddp_->set_device(torch::kCPU);
    ddp_->setup_module(net_);
    optimizer_ = std::make_unique<torch::optim::SGD>(net_.parameters(), 0.1);
  }
  /// With a weight that thaws later.
  void set_up_frozen() {
    torch::manual_seed(1);
    net_ = Net();
    net_.first->weight.requires_grad_(false);
    ddp_ = std::make_unique<DDP>();
    ddp_->set_device(torch::kCPU);
    ddp_->setup_module(net_);
  }
  /// The samples of one rank: as many as its number plus one.
  static torch::Tensor input(int r) {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(r));
    return torch::randn({r + 1, 3}, generator);
  }
  /// The mean over the ranks of the gradients that each would have alone.
  std::vector<torch::Tensor> expected_gradients() {
    std::vector<torch::Tensor> sums;
    const auto parameters = net_.parameters();
    for (int r = 0; r < size(); ++r) {
      const auto loss = net_.forward(input(r)).square().mean();
      const auto gradients = torch::autograd::grad({loss}, parameters, {}, {}, false, true);
      for (size_t i = 0; i < gradients.size(); ++i) {
        const auto gradient =
            gradients[i].defined() ? gradients[i] : torch::zeros_like(parameters[i]);
        r == 0 ? sums.push_back(gradient / size()) : void(sums[i] += gradient / size());
      }
    }
    return sums;
  }
  void expect_equal_on_all_ranks(const torch::Tensor& tensor) {
    const auto all = ddp_->all_gather(tensor.detach());
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(all[r], all[0])) << "rank " << r;
    }
  }

  Net net_;
  std::unique_ptr<DDP> ddp_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

TEST_F(DDPTest, EveryRankStartsWithTheParametersAndBuffersOfRank0) {
  set_up();
  for (const auto& parameter : net_.parameters()) {
    expect_equal_on_all_ranks(parameter);
  }
  EXPECT_EQ(net_.steps.item<float>(), 0);
}

TEST_F(DDPTest, GradientsAreTheMeanOverTheRanksAndViewsOfBuckets) {
  for (const double bucket_mb : {0.001, 4.0}) {
    set_up({.bucket_mb = bucket_mb});
    for (int step = 0; step < 4;
         ++step) {  // the first with the assumed order, then the learned one
      const auto expected = expected_gradients();
      ddp_->zero_gradients(*optimizer_);
      ddp_->require_gradient_sync(true);
      net_.forward(input(rank())).square().mean().backward();
      ddp_->finish_gradient_sync();
      const auto parameters = net_.parameters();
      for (size_t i = 0; i < 4; ++i) {
        EXPECT_TRUE(torch::allclose(parameters[i].grad(), expected[i], 1e-5, 1e-7)) << step;
        expect_equal_on_all_ranks(parameters[i].grad());
      }
      EXPECT_EQ(parameters[0].grad().is_alias_of(parameters[1].grad()), bucket_mb == 4.0);
      optimizer_->step();
    }
  }
}

TEST_F(DDPTest, AParameterWithoutAGradientAnywhereKeepsNone) {
  set_up();
  ddp_->require_gradient_sync(true);
  net_.forward(input(rank())).sum().backward();
  ddp_->finish_gradient_sync();
  EXPECT_FALSE(net_.spare->weight.grad().defined());
}

TEST_F(DDPTest, AParameterThatOneRankUsesGetsItsGradientOnAll) {
  set_up();
  for (int step = 0; step < 3; ++step) {
    ddp_->zero_gradients(*optimizer_);
    ddp_->require_gradient_sync(true);
    auto out = net_.forward(input(rank()));
    if (rank() == size() - 1) {
      out = net_.spare(out);
    }
    out.sum().backward();
    ddp_->finish_gradient_sync();
    ASSERT_TRUE(net_.spare->bias.grad().defined());
    EXPECT_TRUE(torch::equal(net_.spare->bias.grad(), torch::full({2}, 1.0F)))
        << net_.spare->bias.grad();  // size() samples of the last rank, averaged over size() ranks
  }
}

TEST_F(DDPTest, AccumulationStaysOnItsRankUntilTheLastBackwardPass) {
  set_up();
  auto expected = expected_gradients();
  ddp_->require_gradient_sync(false);
  net_.forward(input(rank())).square().mean().backward();
  const auto own = net_.first->weight.grad().clone();
  ddp_->require_gradient_sync(true);
  net_.forward(input(rank())).square().mean().backward();
  ddp_->finish_gradient_sync();
  EXPECT_TRUE(torch::allclose(net_.first->weight.grad(), 2 * expected[0], 1e-5, 1e-7));
  if (size() > 1) {
    EXPECT_FALSE(torch::allclose(own, expected[0]));
  }
}

TEST_F(DDPTest, GradientsReducedBeforeAreNotAddedOnceMore) {
  set_up();
  const auto expected = expected_gradients();
  for (int pass = 1; pass <= 3; ++pass) {  // no zero_gradients() between
    ddp_->require_gradient_sync(false);
    net_.forward(input(rank())).square().mean().backward();
    ddp_->finish_gradient_sync();
    EXPECT_TRUE(torch::allclose(net_.first->weight.grad(), pass * expected[0], 1e-4, 1e-6)) << pass;
  }
}

TEST_F(DDPTest, AParameterThatThawsIsTakenIn) {
  set_up_frozen();
  for (const bool thawed : {false, true}) {
    net_.first->weight.requires_grad_(thawed);
    ddp_->require_gradient_sync(true);
    net_.forward(input(rank())).square().mean().backward();
    ddp_->finish_gradient_sync();
    EXPECT_EQ(net_.first->weight.grad().defined(), thawed);
  }
  expect_equal_on_all_ranks(net_.first->weight.grad());
}

TEST_F(DDPTest, StepNumbersAreSummedWithTheGradientsOrWithoutAny) {
  set_up();
  for (const bool with_gradients : {true, false}) {
    ddp_->require_gradient_sync(true);
    ddp_->set_step_numbers({1.0 + rank(), 0, rank() == 0 ? 5.0 : 0.0});
    if (with_gradients) {
      net_.forward(input(rank())).sum().backward();
      ddp_->finish_gradient_sync();
    }
    const auto sums = ddp_->take_step_numbers();
    EXPECT_EQ(sums[0], size() * (size() + 1) / 2.0);
    EXPECT_EQ(sums[1], 0);
    EXPECT_EQ(sums[2], 5);
  }
}

/// Parameters whose gradients are views of the gradient that others are still computed from.
class Views : public torch::nn::Module {
 public:
  Views() {
    late = register_parameter("late", torch::randn({8, 40}));
    tail = register_parameter("tail", torch::randn({40}));
    view = register_parameter("view", torch::randn({40}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto h = torch::tanh(x.mm(late)) * tail;
    return h + view.unsqueeze(0);
  }
  torch::Tensor late, tail, view;
};

TEST_F(DDPTest, AGradientThatSharesItsMemoryIsNotReducedInPlace) {
  torch::manual_seed(3);
  Views net;
  DDP ddp({.bucket_mb = 0.0001});  // every gradient is large beside that
  ddp.set_device(torch::kCPU);
  ddp.setup_module(net);
  const auto x_of = [](int r) { return torch::full({1, 8}, 0.1 * (r + 1)); };
  const auto loss_of = [&](int r) { return (net.forward(x_of(r)) * (r + 1.0)).square().sum(); };
  const auto parameters = net.parameters();
  std::vector<torch::Tensor> expected;
  for (int r = 0; r < size(); ++r) {
    const auto gradients = torch::autograd::grad({loss_of(r)}, parameters);
    for (size_t i = 0; i < gradients.size(); ++i) {
      r == 0 ? expected.push_back(gradients[i] / size())
             : void(expected[i] += gradients[i] / size());
    }
  }
  for (int step = 0; step < 3; ++step) {
    for (const auto& parameter : parameters) {
      parameter.mutable_grad().reset();
    }
    ddp.require_gradient_sync(true);
    loss_of(rank()).backward();
    ddp.finish_gradient_sync();
    for (size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_TRUE(torch::allclose(parameters[i].grad(), expected[i], 1e-5, 1e-6)) << i;
    }
  }
}

TEST_F(DDPTest, WithoutEagerPassesAParameterThatThawsIsTakenInToo) {
  set_up_frozen();
  net_.first->weight.requires_grad_(true);
  ddp_->require_gradient_sync(false);
  net_.forward(input(rank())).square().mean().backward();
  ddp_->finish_gradient_sync();
  expect_equal_on_all_ranks(net_.first->weight.grad());
}

TEST_F(DDPTest, ASecondGradientInTheSamePassIsRefusedByName) {
  set_up({.bucket_mb = 0.001});
  for (const auto& parameter : net_.spare->parameters()) {
    parameter.requires_grad_(false);  // or the first buckets would wait for it
  }
  ddp_->require_gradient_sync(true);
  net_.forward(input(rank())).sum().backward();
  const auto text = thrown<std::exception>([&] { net_.forward(input(rank())).sum().backward(); });
  EXPECT_NE(text.find("got a second gradient after the first one had gone off"), std::string::npos)
      << text;
}

TEST_F(DDPTest, ASparseGradientIsRefusedByName) {
  torch::nn::Embedding embedding(torch::nn::EmbeddingOptions(4, 2).sparse(true));
  DDP ddp;
  ddp.set_device(torch::kCPU);
  ddp.setup_module(*embedding);
  ddp.require_gradient_sync(true);
  const auto text = thrown<std::exception>([&] {
    embedding(torch::tensor({1, 2})).sum().backward();
  });
  EXPECT_NE(text.find("DDP: the gradient of 'weight' is sparse"), std::string::npos) << text;
}

TEST_F(DDPTest, StaticGraphNamesAParameterThatChangesItsMind) {
  set_up({.static_graph = true});
  const auto step = [&](bool with_spare) {
    ddp_->zero_gradients(*optimizer_);
    ddp_->require_gradient_sync(true);
    auto out = net_.forward(input(rank()));
    (with_spare ? net_.spare(out) : out).sum().backward();
    ddp_->finish_gradient_sync();
  };
  step(true);
  step(true);
  EXPECT_EQ(thrown<UsageError>([&] { step(false); }),
            "DDP: 'spare.weight' got no gradient, which it did in the first step; static_graph is "
            "true. Turn static_graph off, or let every step use the same parameters.");
}

TEST_F(DDPTest, ModulesThatDifferAreNamed) {
  if (size() < 2) {
    GTEST_SKIP() << "one rank has one module";
  }
  Net net(rank() == 1 ? 5 : 4);
  DDP ddp;
  ddp.set_device(torch::kCPU);
  EXPECT_EQ(thrown<UsageError>([&] { ddp.setup_module(net); }),
            "the modules of rank 0 and rank 1 differ: first.weight [4, 3] Float, against "
            "first.weight [5, 3] Float. Build the same module on every rank.");
}

/// Notes when operations begin.
class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(Communicator& inner, std::vector<std::string>& events)
      : inner_(inner), events_(events) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  torch::DeviceType device_type() const override { return inner_.device_type(); }
  void all_to_all_uneven(const std::vector<torch::Tensor>&,
                         const std::vector<torch::Tensor>&) override {}
  void send(const torch::Tensor&, int) override {}
  void recv(const torch::Tensor&, int) override {}
  void barrier() override { inner_.barrier(); }
  std::unique_ptr<Communicator> split(int, int) override { return nullptr; }
  void poll() override { inner_.poll(); }

 protected:
  void run(const Collective& collective) override { inner_.broadcast(collective.output); }
  Work start(const Collective& collective) override {
    events_.push_back("reduce");
    return inner_.all_reduce_async(collective.output, collective.op);
  }
  std::vector<std::string> exchange(const std::string& text) override { return {text}; }

 private:
  Communicator& inner_;
  std::vector<std::string>& events_;
};

TEST_F(DDPTest, BucketsGoOffWhileTheBackwardPassStillRuns) {
  torch::manual_seed(1);
  net_ = Net();
  const auto inner = world_communicator(torch::kCPU);
  std::vector<std::string> events;
  WatchedCommunicator communicator(*inner, events);
  net_.spare->weight.requires_grad_(false);
  net_.spare->bias.requires_grad_(false);
  GradientBucketer bucketer(net_, communicator, nullptr, {.bucket_bytes = 1});
  const auto x = input(rank()).requires_grad_(true);
  x.register_hook([&](const torch::Tensor&) { events.push_back("backward is at the input"); });
  for (int step = 0; step < 2; ++step) {
    events.clear();
    bucketer.set_eager(true);
    net_.forward(x).sum().backward();
    bucketer.finish();
    const auto end = std::find(events.begin(), events.end(), "backward is at the input");
    EXPECT_GE(std::count(events.begin(), end, "reduce"), 2) << "step " << step;
  }
}

TEST_F(DDPTest, ATraceShowsMessagesWithinTheBackwardPass) {
  if (size() < 2) {
    GTEST_SKIP() << "one rank sends nothing";
  }
  set_up({.bucket_mb = 0.001});
  for (const auto& parameter : net_.spare->parameters()) {
    parameter.requires_grad_(false);
  }
  std::ostringstream trace;
  {
    const torch::autograd::profiler::RecordProfile profile(trace);
    ddp_->require_gradient_sync(true);
    const auto loss = net_.forward(input(rank())).square().mean();
    {
      RECORD_FUNCTION("backward pass", c10::ArrayRef<const c10::IValue>{});
      loss.backward();
    }
    ddp_->finish_gradient_sync();
  }
  double begin = 0, end = 0;
  const auto events = nlohmann::json::parse(trace.str());
  for (const auto& event : events) {
    if (event.at("name") == "backward pass") {
      begin = event.at("ts");
      end = begin + event.at("dur").get<double>();
    }
  }
  EXPECT_GT(end, begin);
  const auto is_within = [&](const nlohmann::json& event) {
    const double at = event.at("ts");
    return event.at("name") == "trainer::send" && at > begin && at < end;
  };
  EXPECT_GT(std::count_if(events.begin(), events.end(), is_within), 0) << trace.str();
}

}  // namespace
}  // namespace trainer::test
