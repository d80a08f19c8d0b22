// Batch norm over the ranks against torch::batch_norm on the batches of all of them. Every rank
// makes the whole batch and takes its part of it.

#include <strategies/sync_batch_norm.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/counting_communicator.h>

namespace trainer {
namespace {

class SyncBatchNormTest : public test::CommunicatorFixture {
 protected:
  SyncBatchNormTest()
      : sync_(std::make_unique<SyncBatchNorm>(
            std::make_unique<test::CountingCommunicator>(comm().split(0), traffic_))) {}

  /// What a step leaves.
  struct Result {
    torch::Tensor output, input_gradient;
    std::vector<torch::Tensor> parameters;  // gradients
    std::vector<torch::Tensor> buffers;
  };

  /// Backward with a gradient that differs for each element: that of sum(output * weights).
  template <class Layer>
  static Result step(Layer& layer, const torch::Tensor& input, const torch::Tensor& weights) {
    const auto leaf = input.detach().clone(input.suggest_memory_format()).requires_grad_();
    Result result;
    result.output = layer(leaf);
    layer->zero_grad();
    (result.output * weights).sum().backward();
    result.input_gradient = leaf.grad();
    for (const auto& parameter : layer->parameters()) {
      result.parameters.push_back(parameter.grad().clone());
    }
    for (const auto& buffer : layer->buffers()) {
      result.buffers.push_back(buffer.clone());
    }
    return result;
  }

  /// Samples of rank `r`.
  static std::vector<int64_t> uneven() {
    std::vector<int64_t> sizes;
    for (int r = 0; r < size(); ++r) {
      sizes.push_back(2 + (3 * r) % 5);
    }
    return sizes;
  }
  static std::vector<int64_t> even() {
    return std::vector<int64_t>(static_cast<size_t>(size()), 3);
  }

  struct Options {
    std::vector<int64_t> sizes = even();
    torch::ScalarType dtype = torch::kFloat64;
    torch::MemoryFormat format = torch::MemoryFormat::Contiguous;
    double tolerance = 1e-12;
    std::optional<int> left_out = std::nullopt;  // a rank that does not count
    int steps = 3;
  };

  /// A layer of `make()` in one process on the whole batch, and one over the ranks.
  template <class Make>
  void expect_same(const Make& make, std::vector<int64_t> shape, const Options& options) {
    const auto& sizes = options.sizes;
    torch::manual_seed(5);
    auto whole_layer = make();
    auto layer = make();
    if (options.dtype == torch::kFloat64) {
      whole_layer->to(torch::kFloat64);
      layer->to(torch::kFloat64);
    }
    for (size_t i = 0; i < layer->parameters().size(); ++i) {
      const torch::NoGradGuard no_grad;
      whole_layer->parameters()[i].uniform_(-2, 2);
      layer->parameters()[i].copy_(whole_layer->parameters()[i]);
    }
    const bool counts = options.left_out != rank();
    counts_ = counts;
    sync_->set_counts(counts);
    for (int i = 0; i < options.steps; ++i) {
      shape[0] = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
      const auto make_whole = [&](double offset) {
        auto numbers = torch::randn(shape, torch::kFloat64) * 3 + offset;
        return options.format == torch::MemoryFormat::Contiguous
                   ? numbers.to(options.dtype)
                   : numbers.to(options.dtype).contiguous(options.format);
      };
      const auto whole = make_whole(7);
      const auto weights = make_whole(0);
      const int64_t begin = std::accumulate(sizes.begin(), sizes.begin() + rank(), int64_t{0});
      const int64_t own = sizes[static_cast<size_t>(rank())];
      auto own_weights = weights.narrow(0, begin, own);
      if (!counts) {
        own_weights = torch::zeros_like(own_weights);
      }
      const Result result = step(layer, whole.narrow(0, begin, own), own_weights);

      // The samples that count, in one process.
      std::vector<int64_t> counted;
      for (int64_t r = 0, at = 0; r < size(); at += sizes[static_cast<size_t>(r)], ++r) {
        for (int64_t k = 0; options.left_out != r && k < sizes[static_cast<size_t>(r)]; ++k) {
          counted.push_back(at + k);
        }
      }
      const auto index = torch::tensor(counted, torch::kInt64);
      Result expected;
      {
        const Unsynced unsynced(*this);
        expected = step(whole_layer, whole.index_select(0, index), weights.index_select(0, index));
      }
      const std::string what = c10::str("step ", i, ", ", c10::toString(options.dtype));
      if (counts) {
        const auto before =
            std::count_if(counted.begin(), counted.end(), [&](int64_t k) { return k < begin; });
        expect_close(result.output, expected.output.narrow(0, before, own), options, what);
        expect_close(result.input_gradient, expected.input_gradient.narrow(0, before, own), options,
                     what + ": input gradient");
      } else {
        EXPECT_EQ(result.input_gradient.abs().sum().item<double>(), 0);
        EXPECT_TRUE(result.output.isfinite().all().item<bool>());
      }
      if (own > 0) {
        EXPECT_EQ(result.output.suggest_memory_format(), options.format) << what;
      }
      for (size_t k = 0; k < result.parameters.size(); ++k) {
        auto sum = result.parameters[k];
        EXPECT_EQ(sum.scalar_type(), expected.parameters[k].scalar_type());
        comm().all_reduce(sum);
        expect_close(sum, expected.parameters[k], options, c10::str(what, ": parameter ", k));
      }
      for (size_t k = 0; k < result.buffers.size(); ++k) {
        expect_close(result.buffers[k], expected.buffers[k], options,
                     c10::str(what, ": buffer ", k));
      }
    }
    counts_ = true;
    sync_->set_counts(true);
  }

  static void expect_close(const torch::Tensor& actual, const torch::Tensor& expected,
                           const Options& options, const std::string& what) {
    ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
    ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
    if (actual.numel() == 0) {
      return;
    }
    const auto a = actual.to(torch::kFloat64);
    const auto b = expected.to(torch::kFloat64);
    const double difference = ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
    EXPECT_LE(difference, options.tolerance) << what;
  }

  /// LibTorch as it is.
  class Unsynced {
   public:
    explicit Unsynced(SyncBatchNormTest& test) : test_(test) { test_.sync_.reset(); }
    ~Unsynced() {
      test_.sync_ = std::make_unique<SyncBatchNorm>(
          std::make_unique<test::CountingCommunicator>(comm().split(0), test_.traffic_));
      test_.sync_->set_counts(test_.counts_);
    }

   private:
    SyncBatchNormTest& test_;
  };

  bool counts_ = true;
  test::Traffic traffic_;
  std::unique_ptr<SyncBatchNorm> sync_;
};

using torch::nn::BatchNormOptions;

TEST_F(SyncBatchNormTest, OneDimensionEqualsOneProcess) {
  const auto make = [] { return torch::nn::BatchNorm1d(5); };
  expect_same(make, {0, 5}, {});
  expect_same(make, {0, 5}, {.sizes = uneven()});
  expect_same(make, {0, 5, 4}, {.sizes = uneven()});
}

TEST_F(SyncBatchNormTest, TwoAndThreeDimensionsEqualOneProcess) {
  expect_same([] { return torch::nn::BatchNorm2d(3); }, {0, 3, 4, 5}, {.sizes = uneven()});
  expect_same([] { return torch::nn::BatchNorm3d(2); }, {0, 2, 3, 4, 2}, {.sizes = uneven()});
}

TEST_F(SyncBatchNormTest, WithoutParametersWithoutStatisticsAndWithACumulativeAverageToo) {
  const auto options = [](auto change) {
    BatchNormOptions made(3);
    change(made);
    return [made] { return torch::nn::BatchNorm2d(made); };
  };
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const Options uneven_ones{.sizes = uneven(), .format = format};
    const std::vector<int64_t> shape = {0, 3, 4, 5};
    expect_same(options([](auto& o) { o.affine(false); }), shape, uneven_ones);
    expect_same(options([](auto& o) { o.track_running_stats(false); }), shape, uneven_ones);
    expect_same(options([](auto& o) { o.momentum(std::nullopt); }), shape, uneven_ones);
    expect_same(options([](auto& o) { o.momentum(0.3).eps(0.1); }), shape, uneven_ones);
  }
}

TEST_F(SyncBatchNormTest, Float32AndShortFormatsEqualOneProcessUpToTheirRounding) {
  const auto make = [] { return torch::nn::BatchNorm2d(3); };
  const std::vector<int64_t> shape = {0, 3, 4, 5};
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    expect_same(make, shape,
                {.sizes = uneven(), .dtype = torch::kFloat32, .format = format, .tolerance = 2e-5});
    // Float32 parameters and statistics, as under autocast.
    expect_same(
        make, shape,
        {.sizes = uneven(), .dtype = torch::kBFloat16, .format = format, .tolerance = 2e-2});
    expect_same(make, shape,
                {.sizes = uneven(), .dtype = torch::kFloat16, .format = format, .tolerance = 4e-3});
  }
}

TEST_F(SyncBatchNormTest, ShortParametersAndStatisticsAreRoundedOnce) {
  torch::nn::BatchNorm1d layer(3);
  torch::nn::BatchNorm1d exact(3);
  layer->to(torch::kBFloat16);
  torch::manual_seed(3);
  const auto whole = (torch::randn({size() * 4, 3}) * 3 + 7).to(torch::kBFloat16);
  const auto input = whole.narrow(0, rank() * 4, 4);
  const Result actual = step(layer, input, input);
  const Unsynced unsynced(*this);
  const auto as_float = whole.to(torch::kFloat32);
  const Result expected = step(exact, as_float, as_float);
  const auto own = [&](const torch::Tensor& tensor) {
    return tensor.narrow(0, rank() * 4, 4).to(torch::kBFloat16);
  };
  expect_close(actual.output, own(expected.output), {.tolerance = 8e-3}, "output");
  expect_close(actual.input_gradient, own(expected.input_gradient), {.tolerance = 8e-3},
               "input gradient");
  for (size_t i = 0; i < 2; ++i) {
    expect_close(actual.buffers[i], expected.buffers[i].to(torch::kBFloat16), {.tolerance = 8e-3},
                 "running statistics");
  }
}

TEST_F(SyncBatchNormTest, ALargeMeanCancelsNothing) {
  torch::nn::BatchNorm1d layer(2);
  layer->to(torch::kFloat64);
  const auto input = (torch::randn({6, 2}, torch::kFloat64) + rank()) * 1e-3 + 1e6;
  layer(input);
  auto all = torch::empty({size() * 6, 2}, torch::kFloat64);
  comm().all_gather(all, input);
  EXPECT_TRUE(torch::allclose(layer->running_var, 0.9 + 0.1 * all.var(0), 1e-9, 0));
}

TEST_F(SyncBatchNormTest, ARankThatDoesNotCountSeesTheStatisticsOfTheOthersAndAddsNothing) {
  if (size() == 1) {
    GTEST_SKIP() << "some rank has to count";
  }
  for (int r = 0; r < size(); ++r) {
    expect_same([] { return torch::nn::BatchNorm1d(5); }, {0, 5},
                {.sizes = uneven(), .left_out = r});
  }
}

TEST_F(SyncBatchNormTest, ARankWithoutSamplesTakesPart) {
  if (size() == 1) {
    GTEST_SKIP() << "some rank has to have some";
  }
  auto sizes = uneven();
  sizes.back() = 0;
  expect_same([] { return torch::nn::BatchNorm2d(3); }, {0, 3, 2, 2}, {.sizes = sizes});
}

TEST_F(SyncBatchNormTest, AStepTakesOneCollectiveForwardAndOneBackward) {
  torch::nn::BatchNorm1d layer(4);
  const auto leaf = torch::randn({3, 4}).requires_grad_();
  const auto output = layer(leaf);
  EXPECT_EQ(traffic_.collectives, 1);
  output.sum().backward();
  EXPECT_EQ(traffic_.collectives, 2);
  layer(torch::randn({3, 4})).sum().backward();
  EXPECT_EQ(traffic_.collectives, 3) << "the gradients of weight and bias are this rank's own";
}

TEST_F(SyncBatchNormTest, TrainingWithoutGradientsUpdatesTheStatisticsOfAll) {
  torch::nn::BatchNorm1d layer(2);
  const torch::NoGradGuard no_grad;
  layer(torch::full({4, 2}, static_cast<double>(rank())));
  EXPECT_NEAR(layer->running_mean[0].item<double>(), 0.1 * (size() - 1) / 2.0, 1e-6);
}

TEST_F(SyncBatchNormTest, EvaluationOnOneRankWaitsForNobody) {
  torch::nn::BatchNorm2d layer(3);
  torch::nn::BatchNorm2d without(BatchNormOptions(3).track_running_stats(false));
  layer->eval();
  without->eval();
  const auto input = torch::randn({2, 3, 4, 4});
  if (rank() == 0) {
    layer(input).sum().backward();
    const torch::NoGradGuard no_grad;
    without(input);
    const c10::InferenceMode inference;
    layer(input);
    without(input);
  }
  EXPECT_EQ(traffic_.collectives, 0);
}

TEST_F(SyncBatchNormTest, InstanceNormIsLeftAlone) {
  torch::nn::InstanceNorm2d layer(
      torch::nn::InstanceNorm2dOptions(3).affine(true).track_running_stats(true));
  torch::nn::InstanceNorm2d same(layer->options);
  const auto input = torch::randn({2, 3, 4, 4}) + rank();
  const Result actual = step(layer, input, torch::ones_like(input));
  EXPECT_EQ(traffic_.collectives, 0);
  const Unsynced unsynced(*this);
  const Result expected = step(same, input, torch::ones_like(input));
  EXPECT_TRUE(torch::equal(actual.output, expected.output));
  EXPECT_TRUE(torch::equal(actual.input_gradient, expected.input_gradient));
  EXPECT_TRUE(torch::equal(actual.buffers[0], expected.buffers[0]));
}

TEST_F(SyncBatchNormTest, AnotherThreadTakesItsOwnSamples) {
  if (rank() == 0) {
    std::thread([] { torch::nn::BatchNorm1d(4)(torch::randn({3, 4})); }).join();
  }
  EXPECT_EQ(traffic_.collectives, 0);
}

TEST_F(SyncBatchNormTest, WhereNoObjectLivesLibTorchIsAsItWas) {
  const auto input = torch::randn({4, 3});
  torch::nn::BatchNorm1d layer(3);
  auto output = layer(input);
  sync_.reset();
  EXPECT_EQ(traffic_.collectives, 1);
  const auto mean = layer(input + rank()).mean(0);
  EXPECT_EQ(traffic_.collectives, 1);
  EXPECT_TRUE(torch::allclose(mean, torch::zeros({3}), 0, 1e-5));
  output.sum().backward();  // its graph was made before
  sync_ = std::make_unique<SyncBatchNorm>(comm().split(0));
}

TEST_F(SyncBatchNormTest, AMoreRecentObjectComesFirstAndMayGoFirst) {
  test::Traffic inner_traffic;
  torch::nn::BatchNorm1d layer(3);
  {
    const SyncBatchNorm inner(
        std::make_unique<test::CountingCommunicator>(comm().split(0), inner_traffic));
    layer(torch::randn({4, 3}));
  }
  EXPECT_EQ(inner_traffic.collectives, 1);
  EXPECT_EQ(traffic_.collectives, 0);
  layer(torch::randn({4, 3}));
  EXPECT_EQ(traffic_.collectives, 1);
}

template <class F>
std::string message_of(const F& action) {
  try {
    action();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(SyncBatchNormTest, ASingleValuePerChannelIsRefusedOnEveryRank) {
  sync_->set_counts(rank() == 0);
  EXPECT_EQ(message_of([] {
              torch::batch_norm(torch::randn({1, 3}), {}, {}, {}, {}, /*training=*/true, 0.1, 1e-5,
                                /*cudnn_enabled=*/false);
            }),
            c10::str("batch norm in training: the batches of all ", size(),
                     " ranks together have 1 value per channel, this rank's is [1, 3]. Let batches "
                     "have 2 samples or more, or leave out the last one (drop_last)."));
}

TEST_F(SyncBatchNormTest, AGraphOfTheBackwardPassIsRefused) {
  const auto leaf = torch::randn({4, 3}).requires_grad_();
  const auto output = torch::nn::BatchNorm1d(3)(leaf);
  EXPECT_EQ(message_of([&] {
              torch::autograd::grad({output.square().sum()}, {leaf}, {}, /*retain_graph=*/true,
                                    /*create_graph=*/true);
            }),
            "batch norm over the ranks: a backward pass with create_graph, whose result could be "
            "differentiated again, is not there. Set sync_batchnorm to false, or normalize another "
            "way (GroupNorm).");
}

}  // namespace
}  // namespace trainer
