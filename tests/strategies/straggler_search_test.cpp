#include <strategies/comm/straggler_search.h>

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace trainer {
namespace {

using std::chrono::seconds;

/// Ranks that have waited so long in all.
std::vector<RankStatus> ranks(const std::vector<double>& waited, const std::string& task = "") {
  std::vector<RankStatus> all;
  for (const double s : waited) {
    all.push_back({"node" + std::to_string(all.size()), {.stage = "fit", .waited_s = s}});
  }
  all.front().status.task = task;
  return all;
}

class StragglerSearchTest : public testing::Test {
 protected:
  std::optional<std::string> look(double at_s, const std::vector<RankStatus>& all) {
    return search_.look(all, begin_ + std::chrono::duration_cast<StragglerSearch::Clock::duration>(
                                          std::chrono::duration<double>(at_s)));
  }

  const StragglerSearch::Clock::time_point begin_ = StragglerSearch::Clock::now();
  StragglerSearch search_{seconds(60)};
};

TEST_F(StragglerSearchTest, NamesTheRankThatTheOthersWaitForOnce) {
  EXPECT_FALSE(look(0, ranks({5, 5, 1})));
  EXPECT_FALSE(look(30, ranks({20, 20, 1}))) << "in the middle of a window";
  EXPECT_EQ(look(60, ranks({35, 35, 2})),
            "rank 2 (node2) is slower than the others, which waited for it 48 % of the last 60 s");
  EXPECT_FALSE(look(120, ranks({65, 65, 3}))) << "the same one";
  EXPECT_EQ(look(180, ranks({65, 95, 33})),
            "rank 0 (node0) is slower than the others, which waited for it 50 % of the last 60 s");
}

TEST_F(StragglerSearchTest, IsSilentWhereAllWaitAlike) {
  look(0, ranks({0, 0}));
  EXPECT_FALSE(look(60, ranks({20, 12})));
}

TEST_F(StragglerSearchTest, ACheckpointIsWhatTheOthersMayWaitFor) {
  look(0, ranks({0, 0}));
  look(30, ranks({0, 10}, "saves a checkpoint"));
  EXPECT_FALSE(look(60, ranks({0, 40})));
  look(90, ranks({0, 50}, flight::kWaitsForData));
  EXPECT_TRUE(look(120, ranks({0, 70}))) << "waiting for data is what makes a rank slow";
}

}  // namespace
}  // namespace trainer
