// What a rank needs for parameters, gradients and AdamW's state: its part of all four, the root
// unit, and three units at work; two more with prefetch. Rajbhandari et al. 2020, section 5.3.

#include <malloc.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <strategies/fsdp/sharded_module.h>
#include <trainer/optim/adamw.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/peak_memory.h>

namespace trainer {
namespace {

namespace nn = torch::nn;

constexpr int64_t kDim = 1024, kHidden = 1536, kBlocks = 8;

class ShardedMemoryTest : public test::CommunicatorFixture,
                          public testing::WithParamInterface<bool> {
 protected:
  /// Mean over the ranks, since pages that several have touched count for those that have.
  int64_t grown(int64_t prefetch) {
    ::malloc_trim(0);
    const int64_t before = test::proportional_bytes();
    nn::ModuleList blocks;
    for (int64_t i = 0; i < kBlocks; ++i) {
      blocks->push_back(
          nn::Sequential(nn::Linear(kDim, kHidden), nn::GELU(), nn::Linear(kHidden, kDim)));
    }
    ShardedModule sharded(default_units(*blocks), comm(), nullptr,
                          {.shares_memory = GetParam(), .prefetch = prefetch});
    optim::AdamW optimizer(blocks->parameters(), optim::AdamWOptions(1e-3));
    comm().barrier();
    test::PeakMemory peak;
    for (int step = 0; step < 4; ++step) {
      auto x = torch::randn({4, kDim});
      for (const auto& block : *blocks) {
        x = block->as<nn::Sequential>()->forward(x);
      }
      x.pow(2).mean().backward();
      std::vector<double> none;
      sharded.finish_gradients(none);
      sharded.show_segments();
      optimizer.step();
      sharded.hide_segments();
      for (const auto& parameter : blocks->parameters()) {
        sharded.clear_gradient(parameter);
      }
    }
    auto mean = torch::tensor(static_cast<double>(peak.bytes() - before), torch::kFloat64);
    comm().all_reduce(mean, ReduceOp::kMean);
    return static_cast<int64_t>(mean.item<double>());
  }
};

TEST_P(ShardedMemoryTest, IsThatOfSlicesAndAFewUnits) {
  constexpr int64_t kUnit = 4 * (2 * kDim * kHidden + kHidden + kDim);
  // A gradient on its way into its unit, and what malloc() keeps: twice the largest block it freed.
  constexpr int64_t kElse = kUnit / 2 + kUnit;
  const int64_t gathered = GetParam() ? 0 : kUnit;
  const int64_t bound = 4 * kBlocks * kUnit / size() + 3 * kUnit + gathered + kElse;
  const int64_t without = grown(/*prefetch=*/0), with = grown(/*prefetch=*/1);
  RecordProperty("without_prefetch_mb", std::to_string(without >> 20));
  RecordProperty("with_prefetch_mb", std::to_string(with >> 20));
  RecordProperty("bound_mb", std::to_string(bound >> 20));
  EXPECT_LE(without, bound);
  EXPECT_LE(with, bound + 2 * kUnit);
  EXPECT_GE(without, 3 * kBlocks * kUnit / size());  // or it was not measured
}

INSTANTIATE_TEST_SUITE_P(Ways, ShardedMemoryTest, testing::Bool(), [](const auto& info) {
  return info.param ? "InSharedMemory" : "Gathered";
});

}  // namespace
}  // namespace trainer
