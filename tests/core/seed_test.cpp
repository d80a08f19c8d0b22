#include <trainer/core/seed.h>

#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

TEST(SeedEverything, MakesRandomNumbersRepeat) {
  seed_everything(5);
  const auto first = torch::rand({100});
  EXPECT_EQ(global_seed(), 5U);
  seed_everything(5);
  EXPECT_TRUE(torch::equal(torch::rand({100}), first));
  seed_everything(6);
  EXPECT_FALSE(torch::equal(torch::rand({100}), first));
}

TEST(DeriveSeed, TellsItsArgumentsApart) {
  std::set<uint64_t> seeds;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t a = 0; a < 10; ++a) {
      for (uint64_t b = 0; b < 10; ++b) {
        seeds.insert(derive_seed(seed, a, b));
      }
    }
  }
  EXPECT_EQ(seeds.size(), 1000U);
  EXPECT_EQ(derive_seed(1, 2), derive_seed(1, 2, 0));
}

TEST(RngState, IsRestoredWhole) {
  seed_everything(1);
  torch::randn({3});  // leaves half of a pair of normal numbers behind
  const std::string state = get_rng_state();
  const auto expected = torch::cat({torch::randn({5}), torch::rand({5})});
  seed_everything(2);
  set_rng_state(state);
  EXPECT_TRUE(torch::equal(torch::cat({torch::randn({5}), torch::rand({5})}), expected));
}

TEST(RngState, RefusesBytesThatAreNone) {
  const std::string before = get_rng_state();
  for (const std::string& state : {std::string(), std::string("abc"), before.substr(1)}) {
    EXPECT_EQ(test::thrown<CheckpointError>([&] {
                set_rng_state(state);
              }).find("random generator state: LibTorch does not accept it: "),
              0U);
  }
  EXPECT_EQ(get_rng_state(), before);
}

TEST(RngIsolation, HidesWhatWasDrawnInside) {
  seed_everything(3);
  torch::rand({3});
  const std::string before = get_rng_state();
  {
    const RngIsolation outer;
    torch::rand({7});
    {
      const RngIsolation inner;
      torch::manual_seed(99);
    }
    torch::rand({1});
  }
  EXPECT_EQ(get_rng_state(), before);
}

}  // namespace
}  // namespace trainer
