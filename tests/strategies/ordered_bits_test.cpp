#include <strategies/comm/ordered_bits.h>

#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace trainer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

const std::vector<torch::ScalarType> kFormats = {torch::kFloat64, torch::kFloat32, torch::kBFloat16,
                                                 torch::kFloat16};

/// From the smallest to the largest, in any of the formats.
torch::Tensor ascending(torch::ScalarType format) {
  return torch::tensor({-kInfinity, -60000.0, -1.5, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, 1.5, 60000.0,
                        kInfinity},
                       torch::kFloat64)
      .to(format);
}

TEST(OrderedBits, AreInTheOrderOfTheNumbersAndGiveThemBack) {
  for (const auto format : kFormats) {
    for (const auto op : {ReduceOp::kMin, ReduceOp::kMax}) {
      const auto numbers = ascending(format);
      const auto bits = to_ordered_bits(numbers, op);
      EXPECT_TRUE((bits.diff() > 0).all().item<bool>()) << bits;
      const auto back = from_ordered_bits(bits).to(format);
      EXPECT_TRUE(torch::equal(back, numbers));
      EXPECT_TRUE(torch::equal(back.signbit(), numbers.signbit())) << "of zero";
    }
  }
}

TEST(OrderedBits, NaNOfEitherSignWinsAndStaysNaN) {
  for (const auto format : kFormats) {
    const auto numbers = ascending(format);
    const auto nan = torch::tensor({kNaN, -kNaN}, torch::kFloat64).to(format);
    const auto largest = to_ordered_bits(nan, ReduceOp::kMax);
    EXPECT_TRUE((largest > to_ordered_bits(numbers, ReduceOp::kMax).max()).all().item<bool>());
    EXPECT_TRUE(from_ordered_bits(largest).to(format).isnan().all().item<bool>());
    const auto smallest = to_ordered_bits(nan, ReduceOp::kMin);
    EXPECT_TRUE((smallest < to_ordered_bits(numbers, ReduceOp::kMin).min()).all().item<bool>());
    EXPECT_TRUE(from_ordered_bits(smallest).to(format).isnan().all().item<bool>());
  }
}

TEST(OrderedBits, OfNothingAreNothingAndTheNumbersStay) {
  EXPECT_EQ(to_ordered_bits(torch::empty({0, 3}), ReduceOp::kMax).sizes(),
            torch::IntArrayRef({0, 3}));
  const auto numbers = torch::tensor({1.0F, static_cast<float>(kNaN)});
  to_ordered_bits(numbers, ReduceOp::kMax);
  EXPECT_EQ(numbers[0].item<float>(), 1);
  EXPECT_TRUE(numbers[1].isnan().item<bool>());
}

}  // namespace
}  // namespace trainer
