#include <trainer/data/prefetcher.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

Batch batch_of(int64_t k) { return {torch::tensor(k)}; }

/// What is left, as numbers.
std::vector<int64_t> rest_of(Prefetcher& prefetcher) {
  std::vector<int64_t> result;
  while (const auto batch = prefetcher.next()) {
    result.push_back((*batch)[0].item<int64_t>());
  }
  return result;
}

std::vector<int64_t> range(int64_t first, int64_t last) {
  std::vector<int64_t> result;
  for (; first < last; ++first) {
    result.push_back(first);
  }
  return result;
}

int64_t num_threads_of_process() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                       std::filesystem::directory_iterator());
}

TEST(Prefetcher, HandsOutInOrderWhateverTakesLonger) {
  for (const int64_t num_threads : {0, 1, 2, 5}) {
    for (const int64_t capacity : {1, 2, 3, 7}) {
      Prefetcher prefetcher(num_threads, capacity);
      for (const int64_t first : {int64_t{0}, int64_t{1'000'000'000'000}}) {
        prefetcher.start(
            [](int64_t k) {
              std::this_thread::sleep_for(std::chrono::microseconds(k % 3 * 50));
              return batch_of(k);
            },
            first, first + 40);
        EXPECT_EQ(rest_of(prefetcher), range(first, first + 40));
      }
    }
  }
}

TEST(Prefetcher, FetchesAtMostItsCapacityAhead) {
  for (const int64_t capacity : {1, 2, 5}) {
    std::atomic<int64_t> num_asked_for = 0;
    std::atomic<bool> too_far = false;
    Prefetcher prefetcher(3, capacity);
    prefetcher.start(
        [&](int64_t k) {
          if (k >= num_asked_for + capacity) {
            too_far = true;
          }
          return batch_of(k);
        },
        0, 300);
    do {
      ++num_asked_for;
    } while (prefetcher.next());
    EXPECT_FALSE(too_far) << capacity;
    EXPECT_EQ(num_asked_for, 301);
  }
}

TEST(Prefetcher, FillsUpWithoutBeingAsked) {
  std::latch all(4);
  Prefetcher prefetcher(1, 4);
  prefetcher.start(
      [&](int64_t k) {
        all.count_down(k < 4 ? 1 : 0);
        return batch_of(k);
      },
      0, 100);
  all.wait();  // for ever, were only those fetched that next() waits for
  EXPECT_EQ(rest_of(prefetcher), range(0, 100));
}

TEST(Prefetcher, ThreadsFetchAtTheSameTime) {
  std::latch all(3);  // the first is ready only once the third is being fetched
  Prefetcher prefetcher(3, 3);
  prefetcher.start(
      [&](int64_t k) {
        if (k < 3) {
          all.arrive_and_wait();
        }
        return batch_of(k);
      },
      0, 10);
  EXPECT_EQ(rest_of(prefetcher), range(0, 10));
}

TEST(Prefetcher, KeepsItsThreadsFromEpochToEpoch) {
  std::atomic<int> most = 0;
  Prefetcher prefetcher(1, 4);
  for (int epoch = 0; epoch < 5; ++epoch) {
    prefetcher.start(
        [&](int64_t k) {
          thread_local int num_calls = 0;
          most = std::max(most.load(), ++num_calls);
          return batch_of(k);
        },
        0, 20);
    EXPECT_EQ(rest_of(prefetcher).size(), 20);
  }
  EXPECT_EQ(most, 100);
}

TEST(Prefetcher, StopWaitsForWhatIsUnderWay) {
  const auto num_inside = std::make_shared<std::atomic<int>>(0);
  const auto fetch = [num_inside](int64_t k) {
    ++*num_inside;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    --*num_inside;
    return batch_of(k);
  };
  for (int trial = 0; trial < 50; ++trial) {
    Prefetcher prefetcher(3, 8);
    prefetcher.start(fetch, 0, 1000);
    if (trial % 2 == 0) {
      prefetcher.next();
    }
    prefetcher.stop();
    EXPECT_EQ(*num_inside, 0);
    EXPECT_FALSE(prefetcher.next());
    prefetcher.start(fetch, 0, 1000);
  }
  EXPECT_EQ(*num_inside, 0);             // nor do destroyed ones leave a call behind,
  EXPECT_EQ(num_inside.use_count(), 2);  // or their copies of the function
}

TEST(Prefetcher, DropsBatchesThatNobodyTook) {
  const auto data = torch::zeros({4});
  Prefetcher prefetcher(2, 8);
  std::latch full(8);
  prefetcher.start(
      [&](int64_t) {
        full.count_down();
        return Batch{data};
      },
      0, 8);
  full.wait();
  prefetcher.stop();
  EXPECT_EQ(data.use_count(), 1);
}

TEST(Prefetcher, FailuresEndTheEpochInTheirTurn) {
  for (const int64_t num_threads : {0, 1, 3}) {
    Prefetcher prefetcher(num_threads, 4);
    for (int trial = 0; trial < 20; ++trial) {
      prefetcher.start(
          [](int64_t k) {
            if (k >= 5) {
              throw std::out_of_range(std::to_string(k));
            }
            return batch_of(k);
          },
          0, 100);
      for (int64_t k = 0; k < 5; ++k) {
        ASSERT_EQ(prefetcher.next().value()[0].item<int64_t>(), k);
      }
      EXPECT_EQ(thrown<std::out_of_range>([&] { prefetcher.next(); }), "5");
      EXPECT_FALSE(prefetcher.next());
    }
  }
}

TEST(Prefetcher, OperatorsInItsThreadsStartNoOthers) {
  const int before = at::get_num_threads();
  at::set_num_threads(3);
  std::atomic<int> num_threads = 0;
  std::atomic<int64_t> num_started = 0;
  Prefetcher prefetcher(1, 2);
  prefetcher.start(
      [&](int64_t k) {
        const int64_t old = num_threads_of_process();
        const auto x = torch::ones({600, 600});
        (x.matmul(x) + x).exp().sum();
        torch::linalg_inv(x + torch::eye(600));
        num_started += num_threads_of_process() - old;
        num_threads = at::get_num_threads();
        return batch_of(k);
      },
      0, 3);
  EXPECT_EQ(rest_of(prefetcher), range(0, 3));
  EXPECT_EQ(num_threads, 1);
  EXPECT_EQ(num_started, 0);
  EXPECT_EQ(at::get_num_threads(), 3);
  int of_new_thread = 0;
  std::thread([&] { of_new_thread = at::get_num_threads(); }).join();
  EXPECT_EQ(of_new_thread, 3);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace trainer
