#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>
#include <trainer/data/data_loader.h>

#include <tests/data/number_data.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::Batches;
using test::epoch_of;
using test::NumberDataset;
using test::thrown;
using test::values_of;

/// The sample and a random number after it.
Batch with_noise(Batch sample, torch::Generator& generator) {
  return {sample[0], at::randint(1'000'000'000, {2}, generator, at::kLong)};
}

std::shared_ptr<Dataset> noisy(int64_t size = 50, std::optional<uint64_t> seed = 7) {
  return std::make_shared<TransformedDataset>(std::make_shared<NumberDataset>(size), with_noise,
                                              seed);
}

std::string bytes_of_epoch(std::shared_ptr<const Dataset> dataset, int64_t epoch,
                           DataLoaderOptions options) {
  options.seed = 1;
  DataLoader loader(std::move(dataset), options);
  std::string bytes;
  loader.start(epoch);
  while (const auto batch = loader.next()) {
    for (const auto& tensor : batch->tensors()) {
      bytes.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
    }
  }
  return bytes;
}

TEST(TransformedDataset, GivesTheSameForAnyNumberOfThreads) {
  const auto expected = bytes_of_epoch(noisy(), 1, {.batch_size = 8, .num_workers = 0});
  for (const int64_t num_workers : {1, 2, 4}) {
    EXPECT_TRUE(bytes_of_epoch(noisy(), 1, {.batch_size = 8, .num_workers = num_workers}) ==
                expected);
  }
  EXPECT_FALSE(bytes_of_epoch(noisy(), 2, {.batch_size = 8}) == expected);
  EXPECT_FALSE(bytes_of_epoch(noisy(50, 8), 1, {.batch_size = 8}) == expected);
}

TEST(TransformedDataset, SeedsEachSampleByEpochAndIndex) {
  const auto dataset = noisy();
  const std::vector<int64_t> forward = {3, 4};
  const std::vector<int64_t> backward = {4, 3};
  const auto a = dataset->get_batch_in_epoch(forward, 5);
  const auto b = dataset->get_batch_in_epoch(backward, 5);
  EXPECT_TRUE(at::equal(a[1].flip(0), b[1]));
  EXPECT_FALSE(at::equal(a[1][0], a[1][1]));
  EXPECT_TRUE(at::equal(dataset->get_in_epoch(4, 5)[1], a[1][1]));
  EXPECT_TRUE(at::equal(dataset->get(4)[1], dataset->get_in_epoch(4, 0)[1]));
  auto generator = at::make_generator<at::CPUGeneratorImpl>(derive_seed(7, 5, 4));
  EXPECT_TRUE(at::equal(a[1][1], with_noise(test::number(4), generator)[1]));
}

TEST(TransformedDataset, PassesTheEpochThroughSubsetsAndTransforms) {
  const auto doubled = [](Batch sample, torch::Generator&) {
    return Batch{sample[0] * 2, sample[1]};
  };
  const auto subset = std::make_shared<Subset>(noisy(), std::vector<int64_t>{9, 3});
  const TransformedDataset outer(subset, doubled);
  for (const int64_t epoch : {0, 6}) {
    EXPECT_TRUE(at::equal(outer.get_in_epoch(1, epoch)[1], noisy()->get_in_epoch(3, epoch)[1]));
    const std::vector<int64_t> indices = {1, 0};
    EXPECT_EQ(values_of(outer.get_batch_in_epoch(indices, epoch)), (std::vector<int64_t>{6, 18}));
  }
}

TEST(TransformedDataset, TakesTheSeedOfTheRun) {
  const uint64_t before = global_seed();
  seed_everything(7);
  EXPECT_TRUE(at::equal(noisy(50, std::nullopt)->get(4)[1], noisy(50, 7)->get(4)[1]));
  seed_everything(before);
}

TEST(TransformedDataset, RefusesWhatIsNull) {
  EXPECT_EQ(thrown<UsageError>([] { TransformedDataset(nullptr, with_noise); }),
            "TransformedDataset: the data set is null.");
  EXPECT_EQ(
      thrown<UsageError>([] { TransformedDataset(std::make_shared<NumberDataset>(1), nullptr); }),
      "TransformedDataset: the function is null.");
}

}  // namespace
}  // namespace trainer
