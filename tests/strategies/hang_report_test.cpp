#include <strategies/comm/hang_report.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace trainer {
namespace {

using ::testing::HasSubstr;

flight::Operation all_reduce(uint64_t number) {
  return {.number = number, .name = "all_reduce", .dtype = "Float", .elements = 650};
}

RankStatus in_fit(uint64_t last_number, const flight::Operation& waits_in = {},
                  const std::string& task = "") {
  return {
      "node",
      {.stage = "fit", .step = 12, .task = task, .last_number = last_number, .waits_in = waits_in}};
}

TEST(HangReport, NamesTheRanksThatDidNotCome) {
  const auto hang = report_hang({in_fit(57, all_reduce(57)), in_fit(56), in_fit(57, all_reduce(57)),
                                 in_fit(56, {}, "waits for data")},
                                300);
  EXPECT_EQ(hang.rank, 1U);
  EXPECT_EQ(hang.text,
            "nothing has gone on for 300 s: ranks 1, 3 did not come to all_reduce of 650 Float "
            "elements (collective 57) in step 12, in which ranks 0, 2 wait. There rank 1 is in no "
            "collective.\n  Where a step takes so long, raise trainer.hang_timeout_s.");
}

TEST(HangReport, NamesTheRanksThatOthersHaveLeftBehind) {
  const auto hang = report_hang({{"node", {.last_number = 80}}, in_fit(80)}, 5);
  EXPECT_EQ(hang.rank, 1U);
  EXPECT_THAT(hang.text, HasSubstr("rank 1 did not come to the end of fit"));
}

TEST(HangReport, TellsWhereAllAreIfNobodyIsBehind) {
  const auto hang = report_hang({in_fit(57, all_reduce(57)), in_fit(57, all_reduce(57))}, 5);
  EXPECT_THAT(hang.text, HasSubstr("no rank is behind"));
  EXPECT_THAT(hang.text, HasSubstr("rank 1 (node) waits in all_reduce"));
}

TEST(HangReport, TellsOfRanksThatWaitInDifferentOperations) {
  const auto hang =
      report_hang({in_fit(57, all_reduce(57)), in_fit(57, {.number = 57, .name = "barrier"})}, 5);
  EXPECT_THAT(hang.text, HasSubstr("different ways through the code"));
  EXPECT_THAT(hang.text, HasSubstr("TRAINER_CHECK_COLLECTIVES=1"));
  EXPECT_THAT(hang.text, HasSubstr("rank 1 (node) waits in barrier (collective 57)"));
}

}  // namespace
}  // namespace trainer
