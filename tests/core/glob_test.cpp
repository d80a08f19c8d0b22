#include <gtest/gtest.h>

#include <trainer/core/glob.h>

namespace trainer {
namespace {

TEST(Glob, MatchesWholeNames) {
  EXPECT_TRUE(matches_glob("h.*", "h.0.fc"));
  EXPECT_TRUE(matches_glob("*.fc", "h.0.fc"));
  EXPECT_TRUE(matches_glob("h.*.f*c", "h.10.fic"));
  EXPECT_TRUE(matches_glob("*", "h"));
  EXPECT_TRUE(matches_glob("h.?", "h.1"));
  EXPECT_TRUE(matches_glob("h.[02]", "h.2"));
  EXPECT_FALSE(matches_glob("h.*", "h"));
  EXPECT_FALSE(matches_glob("fc", "h.0.fc"));
  EXPECT_FALSE(matches_glob("h.1", "h.10"));
  EXPECT_FALSE(matches_glob("h.?", "h.10"));
}

}  // namespace
}  // namespace trainer
