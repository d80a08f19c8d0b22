#include <trainer/data/sampler.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

std::vector<int64_t> elements(const Permutation& order) {
  std::vector<int64_t> result;
  for (int64_t position = 0; position < order.size(); ++position) {
    result.push_back(order[position]);
  }
  return result;
}

bool holds_each_once(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != static_cast<int64_t>(i)) {
      return false;
    }
  }
  return true;
}

/// Chi-square statistic of `counts` against equal counts, over its degrees of freedom: about 1 for
/// a fair draw.
template <class Counts>
double unevenness(const Counts& counts) {
  double total = 0;
  for (const auto& [value, count] : counts) {
    total += static_cast<double>(count);
  }
  const double expected = total / static_cast<double>(counts.size());
  double sum = 0;
  for (const auto& [value, count] : counts) {
    const double difference = static_cast<double>(count) - expected;
    sum += difference * difference / expected;
  }
  return sum / static_cast<double>(counts.size() - 1);
}

TEST(Permutation, HoldsEachElementOnce) {
  for (int64_t size = 1; size <= 300; ++size) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      ASSERT_TRUE(holds_each_once(elements(Permutation(size, seed)))) << size << " " << seed;
    }
  }
  for (const int64_t size : {1 << 16, (1 << 16) + 1, 1000003, (1 << 20) + 1}) {
    EXPECT_TRUE(holds_each_once(elements(Permutation(size, 1)))) << size;
  }
}

TEST(Permutation, IsTheSameOnEveryMachineAndInEveryVersion) {
  // A checkpoint keeps the position in this order, not the order: it may never change.
  EXPECT_EQ(elements(Permutation(10, 42)), (std::vector<int64_t>{1, 8, 4, 9, 2, 3, 6, 5, 0, 7}));
  const Permutation order(1'000'000'007, 7);
  EXPECT_EQ(order[0], 883'337'893);
  EXPECT_EQ(order[999'999'999], 797'436'940);
}

TEST(Permutation, CoversTheLargestSizes) {
  constexpr int64_t kSize = std::numeric_limits<int64_t>::max();
  const Permutation order(kSize, 3);
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 50'000; ++i) {
    const int64_t position = i % 2 == 0 ? i : kSize - i;
    const int64_t element = order[position];
    ASSERT_GE(element, 0);
    ASSERT_LT(element, kSize);
    seen.insert(element);
  }
  EXPECT_EQ(seen.size(), 50'000);
}

TEST(Permutation, OtherSeedsAndEpochsGiveOtherOrders) {
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (uint64_t epoch = 0; epoch < 20; ++epoch) {
      orders.insert(elements(Permutation(50, derive_seed(seed, epoch))));
    }
  }
  EXPECT_EQ(orders.size(), 400);
}

TEST(Permutation, PutsEveryElementFirstEquallyOften) {
  for (const int64_t size : {2, 3, 5, 10, 33}) {
    std::map<int64_t, int64_t> first;
    std::map<int64_t, int64_t> last;
    for (uint64_t seed = 0; seed < 10'000; ++seed) {
      const Permutation order(size, seed);
      ++first[order[0]];
      ++last[order[size - 1]];
    }
    ASSERT_EQ(static_cast<int64_t>(first.size()), size);
    ASSERT_EQ(static_cast<int64_t>(last.size()), size);
    EXPECT_LT(unevenness(first), 4) << size;
    EXPECT_LT(unevenness(last), 4) << size;
  }
}

TEST(Permutation, GivesEveryOrderOfAFewElementsEquallyOften) {
  std::map<std::vector<int64_t>, int64_t> orders;
  for (uint64_t seed = 0; seed < 24'000; ++seed) {
    ++orders[elements(Permutation(4, seed))];
  }
  EXPECT_EQ(orders.size(), 24);
  EXPECT_LT(unevenness(orders), 2.5);
}

TEST(Permutation, NeighboursDoNotStayAtAFixedDistance) {
  constexpr int64_t kSize = 101;
  std::map<int64_t, int64_t> distances;
  for (uint64_t seed = 0; seed < 20'000; ++seed) {
    const Permutation order(kSize, seed);
    ++distances[(order[8] - order[7] + kSize) % kSize];
  }
  EXPECT_EQ(distances.size(), kSize - 1);
  EXPECT_EQ(distances.count(0), 0);
  EXPECT_LT(unevenness(distances), 2);
}

TEST(Permutation, RefusesSizesBelowOne) {
  EXPECT_EQ(thrown<UsageError>([] { Permutation(0, 1); }),
            "Permutation: size 0; it has to be at least 1.");
  EXPECT_THROW(Permutation(-5, 1), UsageError);
}

}  // namespace
}  // namespace trainer
