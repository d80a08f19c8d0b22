#include <trainer/progress.h>

#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace trainer {
namespace {

TEST(Progress, IsReadBackAsItWasWritten) {
  const Progress progress{.current_epoch = 1,
                          .global_step = 2,
                          .batch_idx = 3,
                          .batches = 4,
                          .samples = 5,
                          .stepped_batches = 6};
  const nlohmann::json saved = progress;
  EXPECT_EQ(nlohmann::json(saved.get<Progress>()), saved);
  EXPECT_EQ(saved.size(), 6U);
}

/// From the smallest integer on, a run would train for ever to reach its limit.
TEST(Progress, RefusesWhatIsNoCount) {
  for (const char* key :
       {"current_epoch", "global_step", "batch_idx", "batches", "samples", "stepped_batches"}) {
    for (const int64_t count :
         {int64_t{-1}, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()}) {
      nlohmann::json saved = Progress();
      saved[key] = count;
      EXPECT_THROW((void)saved.get<Progress>(), nlohmann::json::out_of_range) << key << count;
    }
  }
}

}  // namespace
}  // namespace trainer
