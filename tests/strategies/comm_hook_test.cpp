// The communication hooks: what they make of gradients that differ by rank, what they send, and
// what a training comes to with them.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <strategies/cast_compress.h>
#include <strategies/ddp.h>
#include <strategies/power_sgd.h>
#include <trainer/api.h>
#include <trainer/core/yaml.h>

#include <tests/support/counting_communicator.h>

namespace trainer {
namespace {

class CommHookTest : public testing::Test {
 protected:
  static Communicator& comm() {
    static test::CountingCommunicator instance(world_communicator(torch::kCPU), traffic());
    return instance;
  }
  static test::Traffic& traffic() {
    static test::Traffic instance;
    return instance;
  }
  static int rank() { return comm().rank(); }
  static int size() { return comm().size(); }

  /// Gradients of parameters with these shapes in one bucket.
  static GradientBucket bucket_of(const std::vector<std::vector<int64_t>>& shapes,
                                  torch::ScalarType dtype, size_t index = 0) {
    int64_t numel = 0;
    for (const auto& shape : shapes) {
      numel += c10::multiply_integers(shape);
    }
    GradientBucket bucket{torch::zeros({numel}, dtype), {}, index};
    int64_t begin = 0;
    for (const auto& shape : shapes) {
      const int64_t n = c10::multiply_integers(shape);
      bucket.slots.push_back(bucket.flat.narrow(0, begin, n).view(shape));
      begin += n;
    }
    return bucket;
  }

  /// What rank `r` has, another thing in every step.
  static torch::Tensor values(int r, int step, int64_t numel) {
    auto generator =
        at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(1000 * step + r));
    return torch::randn({numel}, generator, torch::kFloat64);
  }
  static torch::Tensor mean_of(const std::function<torch::Tensor(int)>& of_rank) {
    auto sum = of_rank(0).to(torch::kFloat64);
    for (int r = 1; r < size(); ++r) {
      sum = sum + of_rank(r).to(torch::kFloat64);
    }
    return sum / size();
  }

  static void reduce(CommHook& hook, const GradientBucket& bucket) {
    hook.start(comm(), bucket)->finish();
  }

  static void expect_same_on_all_ranks(const torch::Tensor& tensor) {
    auto all = torch::empty({size(), tensor.numel()}, tensor.dtype());
    comm().all_gather(all, tensor.detach().contiguous().view({-1}));
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(all[r], tensor.detach().view({-1}))) << "rank " << r;
    }
  }
};

TEST_F(CommHookTest, ShortFormatsGiveTheMeanUpToTheirRoundingAndTheSameBitsOnAllRanks) {
  struct Format {
    std::unique_ptr<CommHook> hook;
    double rounding;
  };
  std::vector<Format> formats;
  formats.push_back({std::make_unique<BF16Compress>(), std::exp2(-8)});
  formats.push_back({std::make_unique<FP16Compress>(), std::exp2(-11)});
  for (const auto& [hook, rounding] : formats) {
    for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
      for (const int64_t n : {1, 1000, 300'001}) {
        const auto bucket = bucket_of({{n}}, dtype);
        bucket.flat.copy_(values(rank(), 0, n));
        traffic().bytes = 0;
        reduce(*hook, bucket);
        EXPECT_EQ(traffic().bytes, 2 * n);
        const auto of_rank = [&](int r) { return values(r, 0, n).to(dtype); };
        // Once for each rank's part, once for the mean.
        const auto allowed =
            2.01 * rounding * mean_of([&](int r) { return of_rank(r).abs(); }) + 1e-7;
        const auto off = (bucket.flat.to(torch::kFloat64) - mean_of(of_rank)).abs();
        EXPECT_TRUE((off <= allowed).all().item<bool>()) << n << " " << c10::toString(dtype);
        expect_same_on_all_ranks(bucket.flat);
      }
    }
  }
}

TEST_F(CommHookTest, ShortGradientsTravelAsTheyAre) {
  const auto bucket = bucket_of({{100}}, torch::kBFloat16);
  bucket.flat.copy_(values(rank(), 0, 100));
  FP16Compress hook;
  reduce(hook, bucket);
  const auto sum = mean_of([&](int r) { return values(r, 0, 100).to(torch::kBFloat16); });
  EXPECT_TRUE(torch::allclose(bucket.flat.to(torch::kFloat64), sum, 8e-3, 1e-6));
}

const std::vector<std::vector<int64_t>> kShapes = {{40, 30}, {40}, {6, 4, 3, 3}, {}, {2, 2}};

TEST_F(CommHookTest, PowerSGDOfFullRankIsTheMean) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    PowerSGD hook({.rank = 100, .start_step = 0, .min_compression_rate = 0});
    for (int step = 0; step < 3; ++step) {
      const auto bucket = bucket_of(kShapes, dtype);
      const int64_t n = bucket.flat.numel();
      bucket.flat.copy_(values(rank(), step, n));
      reduce(hook, bucket);
      const auto mean = mean_of([&](int r) { return values(r, step, n).to(dtype); });
      const double tolerance = dtype == torch::kFloat64 ? 1e-12 : 1e-5;
      // What a rank differs from the mean in is fed back: it adds up to nothing over the ranks.
      EXPECT_LE((bucket.flat.to(torch::kFloat64) - mean).abs().max().item<double>(), tolerance);
      expect_same_on_all_ranks(bucket.flat);
    }
  }
}

TEST_F(CommHookTest, PowerSGDSendsTheFactorsAndVectorsAsTheyAre) {
  PowerSGD hook({.rank = 2, .start_step = 1});
  for (int step = 0; step < 2; ++step) {
    const auto bucket = bucket_of(kShapes, torch::kFloat32);
    const int64_t n = bucket.flat.numel();
    bucket.flat.copy_(values(rank(), step, n));
    traffic().bytes = 0;
    reduce(hook, bucket);
    // The last matrix is too small to gain anything.
    const int64_t factors = 2 * (40 + 30) + 2 * (6 + 36);
    EXPECT_EQ(traffic().bytes, 4 * (step == 0 ? n : factors + 40 + 1 + 4)) << "step " << step;
    const auto mean = mean_of([&](int r) { return values(r, step, n); });
    const auto is_exact = [&](int64_t begin, int64_t numel) {
      return torch::allclose(bucket.flat.narrow(0, begin, numel).to(torch::kFloat64),
                             mean.narrow(0, begin, numel), 0, 1e-6);
    };
    EXPECT_TRUE(is_exact(1200, 40));
    EXPECT_TRUE(is_exact(1456, 5));
    EXPECT_EQ(is_exact(0, 1200), step == 0);
    EXPECT_EQ(is_exact(1240, 216), step == 0);
    expect_same_on_all_ranks(bucket.flat);
  }
}

TEST_F(CommHookTest, PowerSGDLeavesNothingOutForEver) {
  // Of gradients that stay about the same, the sum of what came out is that of what went in but for
  // the memory, which does not grow.
  PowerSGD hook({.rank = 1, .start_step = 0});
  const std::vector<std::vector<int64_t>> shapes = {{20, 16}};
  const auto constant = values(0, 77, 320);
  auto went_in = torch::zeros({320}, torch::kFloat64);
  auto came_out = torch::zeros({320}, torch::kFloat64);
  std::vector<double> memory;
  for (int step = 0; step < 300; ++step) {
    const auto bucket = bucket_of(shapes, torch::kFloat64);
    const auto of_rank = [&](int r) { return constant + 0.3 * values(r, step, 320); };
    bucket.flat.copy_(of_rank(rank()));
    reduce(hook, bucket);
    went_in += mean_of(of_rank);
    came_out += bucket.flat;
    memory.push_back((went_in - came_out).norm().item<double>());
  }
  const double early = *std::max_element(memory.begin() + 50, memory.begin() + 150);
  const double late = *std::max_element(memory.begin() + 200, memory.end());
  EXPECT_LT(late, 1.3 * early);
  EXPECT_LT(memory.back(), 0.15 * went_in.norm().item<double>());
}

TEST_F(CommHookTest, PowerSGDForgetsAStepWithoutFiniteGradients) {
  PowerSGD hook({.rank = 1, .start_step = 0});
  for (int step = 0; step < 4; ++step) {
    const auto bucket = bucket_of({{20, 16}, {3}}, torch::kFloat32);
    bucket.flat.copy_(values(rank(), step, 323));
    if (step == 1 && rank() == size() - 1) {
      bucket.flat[17] = std::numeric_limits<float>::infinity();
    }
    reduce(hook, bucket);
    EXPECT_EQ(bucket.flat.isfinite().all().item<bool>(), step != 1) << "step " << step;
  }
}

TEST_F(CommHookTest, PowerSGDTakesSeveralBucketsUnderWayAtOnce) {
  PowerSGD hook({.rank = 1, .start_step = 1});
  for (int step = 0; step < 3; ++step) {
    std::vector<GradientBucket> buckets;
    std::vector<std::unique_ptr<CommHook::Reduction>> reductions;
    traffic().bytes = 0;
    for (size_t b = 0; b < 3; ++b) {
      buckets.push_back(bucket_of({{20, 16}}, torch::kFloat32, b));
      buckets[b].flat.copy_(values(rank(), step, 320));
      reductions.push_back(hook.start(comm(), buckets[b]));
    }
    for (const auto& reduction : reductions) {
      reduction->finish();
    }
    EXPECT_EQ(traffic().bytes, 3 * 4 * (step == 0 ? 320 : 36)) << "step " << step;
    expect_same_on_all_ranks(torch::cat({buckets[0].flat, buckets[2].flat}));
  }
}

/// y = W x + b, of which each rank has samples of its own.
TEST_F(CommHookTest, ARegressionWithPowerSGDConvergesAndKeepsTheRanksEqual) {
  torch::manual_seed(1);
  torch::nn::Linear truth(24, 16);
  torch::nn::Linear model(24, 16);
  PowerSGD hook({.rank = 2, .start_step = 5});
  traffic().bytes = 0;
  GradientBucketer bucketer(*model, comm(), &hook, {});
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  torch::manual_seed(100 + rank());
  const int steps = 300;
  double loss = 0;
  for (int step = 0; step < steps; ++step) {
    const auto x = torch::randn({16, 24});
    optimizer.zero_grad();
    bucketer.set_eager(true);
    const auto value = (model(x) - truth(x).detach()).square().mean();
    value.backward();
    bucketer.finish();
    optimizer.step();
    loss = value.item<double>();
  }
  EXPECT_LT(loss, 1e-5);
  expect_same_on_all_ranks(model->weight);
  expect_same_on_all_ranks(model->bias);
  const int64_t plain = 4 * (24 * 16 + 16) * steps;
  EXPECT_LT(traffic().bytes, plain * 2 / 5);
}

/// The sum over the ranks.
class Summed : public CommHook {
  struct Sum : Reduction {
    Work work;
    void finish() override { work.wait(); }
  };
  std::unique_ptr<Reduction> start(Communicator& communicator,
                                   const GradientBucket& bucket) override {
    auto sum = std::make_unique<Sum>();
    sum->work = communicator.all_reduce_async(bucket.flat, ReduceOp::kSum);
    return sum;
  }
};
TRAINER_REGISTER_CLASS(Summed);

TEST_F(CommHookTest, AHookOfTheUsersOwnIsMadeByItsName) {
  const auto bucket = bucket_of({{7}, {2, 3}}, torch::kFloat64);
  bucket.flat.copy_(values(rank(), 0, 13));
  reduce(*Spec<CommHook>("Summed").create(), bucket);
  const auto sum = size() * mean_of([](int r) { return values(r, 0, 13); });
  EXPECT_TRUE(torch::allclose(bucket.flat, sum, 1e-14, 1e-14));
}

/// [samples, 6] numbers with a class each.
class Samples : public DataModule {
 public:
  Samples() {
    auto generator = at::make_generator<at::CPUGeneratorImpl>(uint64_t{123});
    const auto x = torch::randn({120, 6}, generator);
    const auto y = (x.sum(1) > 0).to(torch::kInt64) + (x.select(1, 0) > 1).to(torch::kInt64);
    data_ = std::make_shared<TensorDataset>(std::vector<torch::Tensor>{x, y});
  }
  DataLoader train_dataloader() override {
    return {data_, {.global_batch_size = 12, .shuffle = true}};
  }

 private:
  std::shared_ptr<TensorDataset> data_;
};

class Classifier : public Module {
 public:
  Classifier()
      : fc1_(register_module("fc1", torch::nn::Linear(6, 32))),
        fc2_(register_module("fc2", torch::nn::Linear(32, 32))),
        fc3_(register_module("fc3", torch::nn::Linear(32, 3))) {}
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    auto [x, y] = batch.unpack<2>();
    const auto scores = fc3_(torch::tanh(fc2_(torch::tanh(fc1_(x)))));
    auto loss = torch::nn::functional::cross_entropy(scores, y);
    log("loss", loss, {.on_step = false, .on_epoch = true});
    return loss;
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::SGD>(parameters(), 0.2);
  }

 private:
  torch::nn::Linear fc1_, fc2_, fc3_;
};

struct Fitted {
  double loss;
  torch::Tensor weights;
};

Fitted fit(const Spec<Strategy>& strategy) {
  seed_everything(7);
  Classifier module;
  Samples data;
  TrainerConfig config;
  config.max_epochs = 30;
  config.logger = {};
  config.enable_checkpointing = false;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  config.strategy = strategy;
  Trainer trainer(config);
  trainer.fit(module, data);
  std::vector<torch::Tensor> weights;
  for (const auto& parameter : module.parameters()) {
    weights.push_back(parameter.detach().flatten());
  }
  return {trainer.callback_metrics().at("loss"), torch::cat(weights)};
}

Spec<Strategy> from_yaml(const std::string& text) {
  TrainerConfig config;
  config::Diagnostics diagnostics;
  config::Codec<Spec<Strategy>>::read(config::parse_yaml(text, "test.yaml"), "strategy",
                                      diagnostics, config.strategy);
  diagnostics.throw_if_any();
  return config.strategy;
}

TEST_F(CommHookTest, AFitWithEachHookEndsNearThePlainOne) {
  const auto plain = fit("ddp");
  struct Hooked {
    std::string yaml;
    double of_weights, of_loss;  // may differ by
  };
  const std::vector<Hooked> all = {
      {"{class_path: DDP, init_args: {comm_hook: BF16Compress}}", 3e-3, 1e-4},
      {"{class_path: DDP, init_args: {comm_hook: FP16Compress, bucket_mb: 0.002}}", 5e-4, 1e-5},
      {"{class_path: DDP, init_args: {comm_hook: {class_path: PowerSGD, init_args: {rank: 1, "
       "start_step: 20}}}}",
       3e-2, 1e-2},
  };
  for (const auto& [yaml, of_weights, of_loss] : all) {
    const auto hooked = fit(from_yaml(yaml));
    EXPECT_NEAR(hooked.loss, plain.loss, of_loss) << yaml;
    EXPECT_LE((hooked.weights - plain.weights).abs().max().item<double>(), of_weights) << yaml;
    EXPECT_FALSE(torch::equal(hooked.weights, plain.weights)) << yaml;
    expect_same_on_all_ranks(hooked.weights);
  }
}

}  // namespace
}  // namespace trainer
