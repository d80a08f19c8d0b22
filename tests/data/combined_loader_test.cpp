#include <trainer/data/combined_loader.h>

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/data/number_data.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::Batches;
using test::NumberDataset;
using test::NumberStream;
using test::thrown;
using test::values_of;

/// Two batches of 10, 11, 12 and three of 20, ..., 24.
DataLoader combined(CombineMode mode, DataLoaderOptions options = {.batch_size = 2}) {
  std::vector<DataLoader> loaders;
  loaders.emplace_back(std::make_shared<NumberDataset>(3, 10), options);
  loaders.emplace_back(std::make_shared<NumberDataset>(5, 20), options);
  return DataLoader(std::make_unique<CombinedLoader>(std::move(loaders), mode));
}

std::vector<Batches> parts_of(DataLoader& loader, int64_t epoch, int64_t first_batch = 0,
                              int64_t num_batches = -1) {
  std::vector<Batches> all;
  loader.start(epoch, first_batch, num_batches);
  while (const auto batch = loader.next()) {
    all.emplace_back();
    for (size_t i = 0; i < batch->num_parts(); ++i) {
      all.back().push_back(values_of(batch->part(i)));
    }
  }
  return all;
}

TEST(CombinedLoader, EndsWithTheFirstLoaderOfMinSize) {
  DataLoader loader = combined(CombineMode::kMinSize);
  EXPECT_EQ(loader.size(), 2);
  EXPECT_EQ(parts_of(loader, 0), (std::vector<Batches>{{{10, 11}, {20, 21}}, {{12}, {22, 23}}}));
}

TEST(CombinedLoader, LeavesPartsOfMaxSizeEmpty) {
  DataLoader loader = combined(CombineMode::kMaxSize);
  EXPECT_EQ(loader.size(), 3);
  EXPECT_EQ(parts_of(loader, 0),
            (std::vector<Batches>{{{10, 11}, {20, 21}}, {{12}, {22, 23}}, {{}, {24}}}));
}

TEST(CombinedLoader, RepeatsTheShorterOnesOfMaxSizeCycle) {
  DataLoader loader = combined(CombineMode::kMaxSizeCycle);
  EXPECT_EQ(loader.size(), 3);
  EXPECT_EQ(parts_of(loader, 0),
            (std::vector<Batches>{{{10, 11}, {20, 21}}, {{12}, {22, 23}}, {{10, 11}, {24}}}));
}

TEST(CombinedLoader, ShufflesEachCycleAnew) {
  std::vector<DataLoader> loaders;
  loaders.emplace_back(std::make_shared<NumberDataset>(40),
                       DataLoaderOptions{.batch_size = 40, .shuffle = true, .seed = 3});
  loaders.emplace_back(std::make_shared<NumberDataset>(4), DataLoaderOptions{});
  DataLoader loader(std::make_unique<CombinedLoader>(std::move(loaders)));
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    for (const auto& parts : parts_of(loader, epoch)) {
      orders.insert(parts[0]);
    }
  }
  EXPECT_EQ(orders.size(), 12);
}

TEST(CombinedLoader, TakesOneLoaderAfterTheOtherInSequence) {
  DataLoader loader = combined(CombineMode::kSequential);
  EXPECT_EQ(loader.size(), 5);
  std::vector<std::pair<int64_t, std::vector<int64_t>>> seen;
  loader.start(0);
  while (const auto batch = loader.next()) {
    EXPECT_EQ(batch->num_parts(), 0);
    seen.emplace_back(loader.dataloader_idx(), values_of(*batch));
  }
  const decltype(seen) expected = {
      {0, {10, 11}}, {0, {12}}, {1, {20, 21}}, {1, {22, 23}}, {1, {24}}};
  EXPECT_EQ(seen, expected);
}

TEST(CombinedLoader, ContinuesWithTheTailOfTheUninterruptedEpoch) {
  for (const auto mode : {CombineMode::kMinSize, CombineMode::kMaxSize, CombineMode::kMaxSizeCycle,
                          CombineMode::kSequential}) {
    const DataLoaderOptions options = {.shuffle = true, .num_workers = 0, .seed = 1};
    DataLoader loader = combined(mode, options);
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const auto whole = parts_of(loader, epoch);
      ASSERT_EQ(static_cast<int64_t>(whole.size()), loader.size());
      for (int64_t first = 0; first <= loader.size(); ++first) {
        for (int64_t count = 0; first + count <= loader.size(); ++count) {
          DataLoader resumed = combined(mode, options);
          const std::vector<Batches> expected(whole.begin() + first, whole.begin() + first + count);
          ASSERT_EQ(parts_of(resumed, epoch, first, count), expected) << first << " " << count;
        }
      }
    }
  }
}

TEST(CombinedLoader, TakesStreams) {
  const auto make = [](CombineMode mode) {
    std::vector<DataLoader> loaders;
    loaders.emplace_back(std::make_shared<NumberStream>(2), DataLoaderOptions{});
    loaders.emplace_back(std::make_shared<NumberDataset>(3, 20), DataLoaderOptions{});
    return DataLoader(std::make_unique<CombinedLoader>(std::move(loaders), mode));
  };
  EXPECT_EQ(make(CombineMode::kMinSize).size(), kUnknownSize);
  for (const auto& [mode, num_batches] :
       {std::pair{CombineMode::kMinSize, 2}, std::pair{CombineMode::kMaxSize, 3},
        std::pair{CombineMode::kMaxSizeCycle, 3}, std::pair{CombineMode::kSequential, 5}}) {
    DataLoader loader = make(mode);
    auto whole = parts_of(loader, 0);
    EXPECT_EQ(whole.size(), num_batches);
    whole.erase(whole.begin());
    EXPECT_EQ(parts_of(loader, 0, 1), whole);
    EXPECT_EQ(parts_of(loader, 0, 1, 1).size(), 1);
  }
}

TEST(CombinedLoader, RefusesWhatItCannotCombine) {
  EXPECT_EQ(thrown<UsageError>([] { CombinedLoader({}); }),
            "CombinedLoader: no loaders. Give at least one.");
  std::vector<DataLoader> none(1);
  EXPECT_EQ(thrown<UsageError>([&] { CombinedLoader(std::move(none)); }),
            "CombinedLoader: loader 0 has no data set.");
  std::vector<DataLoader> loaders;
  loaders.emplace_back(std::make_shared<NumberDataset>(3), DataLoaderOptions{});
  loaders.emplace_back(std::make_shared<NumberStream>(0), DataLoaderOptions{});
  DataLoader loader(std::make_unique<CombinedLoader>(std::move(loaders)));
  loader.start(0);
  EXPECT_EQ(thrown<DataError>([&] { loader.next(); }),
            "CombinedLoader: loader 1 has no batch, it cannot be repeated while others go on.\n"
            "  Give it data, or choose another mode than max_size_cycle.");
}

TEST(CombinedLoader, DescribesAndDividesItsLoaders) {
  DataLoader loader = combined(CombineMode::kMinSize, {.global_batch_size = 4});
  loader.divide_batches({.world_size = 2, .shards = false});
  EXPECT_EQ(loader.shape().dump(),
            R"({"loaders":[{"batch_size":2,"samples":3,"shuffle":false},)"
            R"({"batch_size":2,"samples":5,"shuffle":false}],"mode":"min_size"})");
  EXPECT_EQ(loader.size(), 2);
}

}  // namespace
}  // namespace trainer
