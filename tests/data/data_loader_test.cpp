#include <trainer/data/data_loader.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>
#include <trainer/data/sampler.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

/// Sample i is the number i. `on_fetch`, when given, sees the indices of each batch first.
class Numbers : public Dataset {
 public:
  using OnFetch = std::function<void(std::span<const int64_t>)>;
  explicit Numbers(int64_t size, OnFetch on_fetch = nullptr)
      : size_(size), on_fetch_(std::move(on_fetch)) {}
  int64_t size() const override { return size_; }
  Batch get_batch(std::span<const int64_t> indices) const override {
    if (on_fetch_) {
      on_fetch_(indices);
    }
    auto values = torch::empty({static_cast<int64_t>(indices.size())}, torch::kInt64);
    std::copy(indices.begin(), indices.end(), values.mutable_data_ptr<int64_t>());
    return {values};
  }

 private:
  int64_t size_;
  OnFetch on_fetch_;
};

/// Has get() only; takes a time that depends on the sample and on chance.
class Sleepy : public Dataset {
 public:
  int64_t size() const override { return 203; }
  Batch get(int64_t index) const override {
    thread_local std::mt19937 random(std::random_device{}());
    if (random() % 4 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
    }
    return {torch::full({3}, static_cast<double>(index)).sin(), torch::tensor(index)};
  }
};

using Batches = std::vector<std::vector<int64_t>>;

std::vector<int64_t> values_of(const Batch& batch) {
  const auto* first = batch[0].const_data_ptr<int64_t>();
  return {first, first + batch[0].numel()};
}

Batches rest_of(DataLoader& loader) {
  Batches batches;
  while (const auto batch = loader.next()) {
    batches.push_back(values_of(*batch));
  }
  return batches;
}

Batches epoch_of(DataLoader& loader, int64_t epoch, int64_t first_batch = 0,
                 int64_t num_batches = -1) {
  loader.start(epoch, first_batch, num_batches);
  return rest_of(loader);
}

TEST(DataLoader, FollowsTheOrderOfSeedEpochAndPosition) {
  constexpr int64_t kSize = 103;
  for (const int64_t num_workers : {0, 2}) {
    DataLoader loader(std::make_shared<Numbers>(kSize),
                      {.batch_size = 10, .shuffle = true, .num_workers = num_workers, .seed = 5});
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const Permutation order(kSize, derive_seed(5, static_cast<uint64_t>(epoch)));
      int64_t position = 0;
      for (const auto& batch : epoch_of(loader, epoch)) {
        for (const int64_t value : batch) {
          ASSERT_EQ(value, order[position]);
          ++position;
        }
      }
      EXPECT_EQ(position, kSize);
    }
  }
}

TEST(DataLoader, KeepsTheDataSetsOrderWithoutShuffle) {
  DataLoader loader(std::make_shared<Numbers>(5), {.batch_size = 2});
  const Batches expected = {{0, 1}, {2, 3}, {4}};
  EXPECT_EQ(epoch_of(loader, 0), expected);
  EXPECT_EQ(epoch_of(loader, 1), expected);
}

TEST(DataLoader, TakesTheSeedOfTheRunAtStart) {
  DataLoader of_run(std::make_shared<Numbers>(50), {.batch_size = 7, .shuffle = true});
  DataLoader own(std::make_shared<Numbers>(50), {.batch_size = 7, .shuffle = true, .seed = 11});
  const uint64_t before = global_seed();
  seed_everything(11);
  EXPECT_EQ(epoch_of(of_run, 4), epoch_of(own, 4));
  seed_everything(12);
  EXPECT_NE(epoch_of(of_run, 4), epoch_of(own, 4));
  seed_everything(before);
}

TEST(DataLoader, GivesTheSameBytesForAnyNumberOfWorkers) {
  const auto dataset = std::make_shared<Sleepy>();
  const auto epoch = [&](int64_t num_workers, int64_t prefetch) {
    DataLoader loader(dataset, {.batch_size = 8,
                                .shuffle = true,
                                .num_workers = num_workers,
                                .prefetch = prefetch,
                                .seed = 1});
    std::string bytes;
    for (int64_t e = 0; e < 2; ++e) {
      loader.start(e);
      while (const auto batch = loader.next()) {
        for (const auto& tensor : batch->tensors()) {
          bytes.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
        }
      }
    }
    return bytes;
  };
  const std::string expected = epoch(0, 1);
  EXPECT_EQ(expected.size(), 2 * 203 * (3 * sizeof(float) + sizeof(int64_t)));
  for (const int64_t num_workers : {0, 1, 2, 4}) {
    for (const int64_t prefetch : {1, 2, 3, 8, 1000}) {
      EXPECT_TRUE(epoch(num_workers, prefetch) == expected) << num_workers << " " << prefetch;
    }
  }
}

TEST(DataLoader, CountsBatchesAndSamples) {
  for (int64_t size = 1; size <= 30; ++size) {
    for (int64_t batch_size = 1; batch_size <= 31; ++batch_size) {
      for (const bool drop_last : {false, true}) {
        if (drop_last && size < batch_size) {
          continue;
        }
        DataLoader loader(std::make_shared<Numbers>(size),
                          {.batch_size = batch_size, .drop_last = drop_last, .num_workers = 0});
        const Batches batches = epoch_of(loader, 0);
        ASSERT_EQ(static_cast<int64_t>(batches.size()), loader.size());
        int64_t total = 0;
        for (int64_t i = 0; i < loader.size(); ++i) {
          const auto count = static_cast<int64_t>(batches[static_cast<size_t>(i)].size());
          ASSERT_EQ(count, loader.num_samples(i));
          total += count;
        }
        ASSERT_EQ(total, drop_last ? size - size % batch_size : size);
      }
    }
  }
}

TEST(DataLoader, TakesAnyLargeOption) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  DataLoader loader(std::make_shared<Numbers>(5),
                    {.batch_size = kMax, .num_workers = kMax, .prefetch = kMax});
  EXPECT_EQ(loader.size(), 1);
  EXPECT_EQ(epoch_of(loader, kMax, 0, kMax), (Batches{{0, 1, 2, 3, 4}}));
}

TEST(DataLoader, ContinuesWithTheTailOfTheUninterruptedEpoch) {
  std::mt19937_64 random(1);
  const auto dataset = std::make_shared<Numbers>(37);
  for (int trial = 0; trial < 10'000; ++trial) {
    const DataLoaderOptions options = {.batch_size = 4,
                                       .shuffle = true,
                                       .num_workers = trial % 10 == 0 ? 2 : 0,
                                       .seed = random() >> 1};
    const auto epoch = static_cast<int64_t>(random() % 1000);
    const auto first_batch = static_cast<int64_t>(random() % 11);
    DataLoader uninterrupted(dataset, options);
    Batches expected = epoch_of(uninterrupted, epoch);
    expected.erase(expected.begin(), expected.begin() + first_batch);
    DataLoader resumed(dataset, options);
    ASSERT_EQ(epoch_of(resumed, epoch, first_batch), expected) << options.seed.value();
  }
}

TEST(DataLoader, FetchesNothingInVain) {
  for (const int64_t num_workers : {0, 1, 3}) {
    std::atomic<int64_t> num_fetched = 0;
    DataLoader loader(std::make_shared<Numbers>(100, [&](auto) { ++num_fetched; }),
                      {.batch_size = 2, .num_workers = num_workers, .prefetch = 8});
    EXPECT_EQ(epoch_of(loader, 0, 45, 3), (Batches{{90, 91}, {92, 93}, {94, 95}}));
    EXPECT_EQ(num_fetched, 3);
    EXPECT_EQ(epoch_of(loader, 0, 48, 100).size(), 2);
    EXPECT_EQ(num_fetched, 5);
    EXPECT_TRUE(epoch_of(loader, 0, 50).empty());
    EXPECT_TRUE(epoch_of(loader, 0, 3, 0).empty());
    EXPECT_EQ(num_fetched, 5);
  }
}

TEST(DataLoader, ReturnsNothingAfterTheEnd) {
  for (const int64_t num_workers : {0, 1}) {
    DataLoader loader(std::make_shared<Numbers>(3), {.num_workers = num_workers});
    EXPECT_EQ(epoch_of(loader, 0).size(), 3);
    EXPECT_FALSE(loader.next());
    EXPECT_FALSE(loader.next());
    loader.start(1);
    EXPECT_TRUE(loader.next());
    loader.stop();
    EXPECT_FALSE(loader.next());
    EXPECT_FALSE(loader.next());
  }
}

TEST(DataLoader, RethrowsAtTheBatchThatFailed) {
  for (const int64_t num_workers : {0, 1, 3}) {
    std::atomic<bool> broken = true;
    DataLoader loader(std::make_shared<Numbers>(40,
                                                [&](std::span<const int64_t> indices) {
                                                  if (broken && indices[0] >= 20) {
                                                    throw std::runtime_error(
                                                        "sample " + std::to_string(indices[0]));
                                                  }
                                                }),
                      {.batch_size = 4, .num_workers = num_workers});
    for (int trial = 0; trial < 3; ++trial) {
      loader.start(0);
      for (int64_t i = 0; i < 5; ++i) {
        const auto batch = loader.next();
        ASSERT_TRUE(batch);
        ASSERT_EQ(values_of(*batch)[0], 4 * i);
      }
      EXPECT_EQ(thrown<std::runtime_error>([&] { loader.next(); }), "sample 20");
      EXPECT_FALSE(loader.next());
    }
    broken = false;
    EXPECT_EQ(epoch_of(loader, 0).size(), 10);
  }
}

TEST(DataLoader, StartsAnewWhileWorkersFetch) {
  const auto dataset = std::make_shared<Numbers>(64, [](std::span<const int64_t> indices) {
    if (indices[0] % 3 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(indices[0] % 50));
    }
  });
  const DataLoaderOptions options = {
      .batch_size = 2, .shuffle = true, .num_workers = 3, .prefetch = 4, .seed = 2};
  DataLoaderOptions inline_options = options;
  inline_options.num_workers = 0;
  DataLoader reference(dataset, inline_options);
  DataLoader loader(dataset, options);
  std::mt19937 random(1);
  for (int64_t trial = 0; trial < 200; ++trial) {
    const auto first_batch = static_cast<int64_t>(random() % 33);
    const auto num_taken = static_cast<int64_t>(random() % 33);
    loader.start(trial, first_batch);
    reference.start(trial, first_batch);
    for (int64_t i = 0; i < num_taken; ++i) {
      const auto batch = loader.next();
      const auto expected = reference.next();
      ASSERT_EQ(batch.has_value(), expected.has_value());
      if (batch) {
        ASSERT_EQ(values_of(*batch), values_of(*expected));
      }
    }
    if (trial % 3 == 0) {
      loader.stop();
      ASSERT_FALSE(loader.next());
    }
  }
}

TEST(DataLoader, MovesWhileWorkersFetch) {
  DataLoader first(std::make_shared<Numbers>(100), {.batch_size = 10, .num_workers = 2});
  first.start(0);
  EXPECT_EQ(values_of(*first.next())[0], 0);
  DataLoader second(std::move(first));
  EXPECT_EQ(values_of(*second.next())[0], 10);
  DataLoader third(std::make_shared<Numbers>(100), {.batch_size = 10, .num_workers = 2});
  third.start(0);
  third = std::move(second);
  EXPECT_EQ(rest_of(third).size(), 8);
}

TEST(DataLoader, FetchesWithoutGradients) {
  for (const int64_t num_workers : {0, 1}) {
    std::atomic<bool> with_gradients = false;
    DataLoader loader(std::make_shared<Numbers>(10,
                                                [&](auto) {
                                                  if (torch::GradMode::is_enabled()) {
                                                    with_gradients = true;
                                                  }
                                                }),
                      {.num_workers = num_workers});
    EXPECT_EQ(epoch_of(loader, 0).size(), 10);
    EXPECT_FALSE(with_gradients);
    EXPECT_TRUE(torch::GradMode::is_enabled());
  }
}

TEST(DataLoader, ChecksItsOptions) {
  const auto error = [](const DataLoaderOptions& options) {
    return thrown<ConfigError>([&] { DataLoader(std::make_shared<Numbers>(5), options); });
  };
  EXPECT_EQ(error({.batch_size = 0, .num_workers = -1, .prefetch = 0}),
            "in code: DataLoader.batch_size: is '0': must be at least 1.\n"
            "in code: DataLoader.num_workers: is '-1': must be at least 0.\n"
            "in code: DataLoader.prefetch: is '0': must be at least 1.");
}

TEST(DataLoader, RefusesDataItCannotBatch) {
  const auto data_error = [](int64_t size, const DataLoaderOptions& options) {
    return thrown<DataError>([&] { DataLoader(std::make_shared<Numbers>(size), options); });
  };
  EXPECT_EQ(data_error(0, {}),
            "DataLoader: trainer::(anonymous namespace)::Numbers has no samples, its size() is 0. "
            "Give it some, or return DataLoader() where a stage has no data.");
  EXPECT_EQ(data_error(5, {.batch_size = 6, .drop_last = true}),
            "DataLoader: trainer::(anonymous namespace)::Numbers has 5 samples, not one full batch "
            "of 6. Lower batch_size, or turn drop_last off.");
  EXPECT_EQ(thrown<UsageError>([] { DataLoader(std::shared_ptr<const Dataset>(), {}); }),
            "DataLoader: the data set is null. DataLoader() stands for no data.");
}

TEST(DataLoader, RefusesPositionsOutOfRange) {
  DataLoader loader(std::make_shared<Numbers>(5), {.batch_size = 2});
  EXPECT_EQ(thrown<UsageError>([&] { loader.start(0, 4); }),
            "DataLoader: start(epoch 0, first_batch 4, num_batches -1) is out of range; an epoch "
            "has 3 batches, and -1 stands for all that are left.");
  EXPECT_THROW(loader.start(-1), UsageError);
  EXPECT_THROW(loader.start(0, -1), UsageError);
  EXPECT_THROW(loader.start(0, 0, -2), UsageError);
  EXPECT_EQ(thrown<UsageError>([&] { loader.next(); }),
            "DataLoader: next() before start(). Call start(epoch) for each epoch.");
  EXPECT_EQ(thrown<UsageError>([&] { loader.num_samples(3); }),
            "DataLoader: no batch 3; an epoch has 3, counted from 0.");
  EXPECT_THROW(loader.num_samples(-1), UsageError);
}

TEST(DataLoader, DividesTheGlobalBatchOverProcessesAndAccumulation) {
  DataLoader loader(std::make_shared<Numbers>(100), {.global_batch_size = 24});
  EXPECT_EQ(loader.options().batch_size, 24);
  loader.divide_batches({.world_size = 2, .accumulate_grad_batches = 3, .shards = false});
  EXPECT_EQ(loader.options().batch_size, 4);
  EXPECT_EQ(loader.size(), 25);
  EXPECT_EQ(loader.shape().dump(), R"({"batch_size":4,"samples":100,"shuffle":false})");
  EXPECT_EQ(epoch_of(loader, 0, 24), (Batches{{96, 97, 98, 99}}));
  loader.divide_batches({});
  EXPECT_THROW(loader.next(), UsageError) << "the epoch that was under way is over";

  DataLoader own(std::make_shared<Numbers>(100), {.batch_size = 24});
  own.divide_batches({.world_size = 2, .accumulate_grad_batches = 3, .shards = false});
  EXPECT_EQ(own.options().batch_size, 24);
}

TEST(DataLoader, SharesASmallerLastBatchSoThatNobodyIsLeftWithASingleSample) {
  const auto last_batches = [](int64_t num_samples, int64_t batch_size) {
    Batches of_ranks;
    for (int rank = 0; rank < 4; ++rank) {
      DataLoader loader(std::make_shared<Numbers>(num_samples), {.batch_size = batch_size});
      loader.divide_batches({.rank = rank, .world_size = 4});
      of_ranks.push_back(epoch_of(loader, 0, loader.size() - 1).front());
      EXPECT_EQ(loader.is_repeated(), loader.num_samples(loader.size() - 1) == 0);
    }
    return of_ranks;
  };
  EXPECT_EQ(last_batches(10, 3), (Batches{{0, 1, 2}, {3, 4, 5}, {6, 7}, {8, 9}}));
  EXPECT_EQ(last_batches(5, 3), (Batches{{0, 1, 2}, {3, 4}, {0, 1}, {0, 1}})) << "repeated ones";
  EXPECT_EQ(last_batches(3, 3), (Batches{{0, 1, 2}, {0, 1}, {0, 1}, {0, 1}}));
  EXPECT_EQ(last_batches(13, 3), (Batches{{12}, {12}, {12}, {12}})) << "there is only one";
  EXPECT_EQ(last_batches(7, 1), (Batches{{4}, {5}, {6}, {4}})) << "all have single ones";
}

TEST(DataLoader, RefusesAGlobalBatchThatDoesNotDivide) {
  for (const int64_t global : {10, 4, 9}) {
    EXPECT_EQ(thrown<ConfigError>(
                  [&] { batch_size_for(global, {.world_size = 2, .accumulate_grad_batches = 4}); }),
              "global_batch_size is " + std::to_string(global) +
                  ", which does not divide by 2 processes times accumulate_grad_batches 4.\n"
                  "  Choose a multiple of both.");
  }
  EXPECT_EQ(batch_size_for(8, {.world_size = 2, .accumulate_grad_batches = 4}), 1);
  EXPECT_THROW(batch_size_for(8, {.world_size = std::numeric_limits<int>::max(),
                                  .accumulate_grad_batches = 4}),
               ConfigError);
  EXPECT_EQ(thrown<ConfigError>([] {
              DataLoader(std::make_shared<Numbers>(5), {.batch_size = 2, .global_batch_size = 4});
            }),
            "in code: DataLoader: batch_size is 2 and global_batch_size is 4; give one of them.");
  DataLoader loader(std::make_shared<Numbers>(5), {.global_batch_size = 12, .drop_last = true});
  EXPECT_THROW(loader.divide_batches({.world_size = 2, .shards = false}), DataError);
}

TEST(DataLoader, IsEmptyWithoutData) {
  DataLoader none;
  EXPECT_FALSE(none);
  EXPECT_EQ(thrown<UsageError>([&] { none.start(0); }),
            "DataLoader: has no data set. Ask `if (loader)` first.");
  EXPECT_THROW(none.next(), UsageError);
  EXPECT_THROW(none.size(), UsageError);
  const auto dataset = std::make_shared<Numbers>(5);
  const DataLoader some(dataset, {.batch_size = 2});
  EXPECT_TRUE(some);
  EXPECT_EQ(&some.dataset(), dataset.get());
  EXPECT_EQ(some.options().batch_size, 2);
}

}  // namespace
}  // namespace trainer
