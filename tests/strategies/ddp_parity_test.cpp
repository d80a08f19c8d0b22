// 1, 2 and 4 ranks arrive at the weights and metrics of one process on the same global batches.

#include <tests/support/parity_fixture.h>

namespace trainer::test {
namespace {

class DDPParity : public ParityFixture {
 protected:
  static void SetUpTestSuite() {
    ParityFixture::SetUpTestSuite();
    for (const int ranks : {0, 1, 2, 4}) {
      start(ranks, folder(ranks));
    }
  }

  /// Every parameter and metric of `name` against those of `reference` in one process.
  static void expect_same(const std::string& name, const std::string& reference, double tolerance) {
    const auto expected = result_in(folder(0), reference);
    for (const int ranks : {1, 2, 4}) {
      if (ranks == 1 && name != reference) {
        continue;
      }
      expect_same_tensors(result_in(folder(ranks), name), expected, ranks == 1 ? 0 : tolerance,
                          name + " on " + std::to_string(ranks) + " ranks");
    }
  }
};

class DDPParityInFloat64 : public DDPParity, public testing::WithParamInterface<const char*> {};

TEST_P(DDPParityInFloat64, EqualsOneProcess) { expect_same(GetParam(), GetParam(), 1e-12); }

INSTANTIATE_TEST_SUITE_P(Cases, DDPParityInFloat64,
                         testing::Values("plain", "uneven", "one_left", "accumulation", "clip_norm",
                                         "clip_value", "unused", "weighted", "by_hand", "two_steps",
                                         "in_turn", "stream", "sync_batchnorm", "lamb", "muon",
                                         "schedule_free", "digits", "digits_accumulation_clip",
                                         "gpt", "gpt_accumulation_clip"));

TEST_F(DDPParity, BlocksThatRunAgainInTheBackwardPassEqualOthers) {
  const auto one = folder(0);
  expect_same_tensors(result_in(one, "gpt_checkpointed"), result_in(one, "gpt"), 0, "gpt");
  expect_same_tensors(result_in(one, "checkpointed"), result_in(one, "blocks"), 0, "blocks");
  expect_same("gpt_checkpointed", "gpt", 1e-12);
  expect_same("checkpointed", "blocks", 1e-12);
}

TEST_F(DDPParity, AResumeOnAnotherNumberOfRanksGoesOnWithTheSameBatches) {
  const std::vector<std::string> cases = {"accumulation", "plain", "stream", "uneven"};
  for (const int before : {1, 2, 4}) {
    const auto stopped = folder(before) / "stopped";
    start(before, stopped, {{"DDP_CASES_STOP", "23"}}, cases);  // within an epoch
    for (const int after : {1, 2, 4}) {
      const auto out = stopped / std::to_string(after);
      start(after, out, {{"DDP_CASES_RESUME", stopped.string()}}, cases);
      for (const auto& name : cases) {
        const std::string file = name + ".safetensors";
        // The epoch's metrics know nothing of ranks that are gone: compare what training made.
        const bool is_same = before == after;
        expect_same_tensors(
            safetensors::File(out / file), safetensors::File(folder(is_same ? before : 0) / file),
            is_same ? 0 : 1e-12,
            name + " from " + std::to_string(before) + " to " + std::to_string(after) + " ranks",
            is_same ? "" : "weight/");
      }
    }
  }
}

TEST_F(DDPParity, StaticGraphEqualsADynamicOne) { expect_same("static_graph", "plain", 1e-12); }
TEST_F(DDPParity, BucketsOfOneParameterEqualLargeOnes) {
  expect_same("small_buckets", "unused", 1e-12);
}
TEST_F(DDPParity, Float32EqualsOneProcessUpToTheOrderOfSums) {
  expect_same("float32", "float32", 1e-5);
}
TEST_F(DDPParity, MixedPrecisionEqualsOneProcessUpToItsRounding) {
  expect_same("bf16_mixed", "bf16_mixed", 3e-2);
  expect_same("fp16_mixed", "fp16_mixed", 1e-2);
}

}  // namespace
}  // namespace trainer::test
