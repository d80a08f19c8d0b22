// Ranks that hold slices arrive at the weights and metrics of one process on the same global
// batches, whatever is sharded, and however ranks meet.

#include <tests/support/parity_fixture.h>

namespace trainer::test {
namespace {

const std::vector<std::string> kCases = {"plain",
                                         "uneven",
                                         "one_left",
                                         "accumulation",
                                         "clip_norm",
                                         "clip_value",
                                         "unused",
                                         "weighted",
                                         "two_steps",
                                         "by_hand",
                                         "in_turn",
                                         "stream",
                                         "sync_batchnorm",
                                         "lamb",
                                         "muon",
                                         "schedule_free",
                                         "digits",
                                         "gpt",
                                         "checkpointed",
                                         "gpt_checkpointed",
                                         "float32",
                                         "bf16_mixed",
                                         "fp16_mixed",
                                         "digits_accumulation_clip",
                                         "gpt_accumulation_clip"};

struct Mode {
  std::string name;
  std::string arguments;  // of FSDP
  std::vector<int> ranks = {1, 2, 4};
  ParityFixture::Environment environment = {};
};

const std::vector<Mode> kModes = {
    {"FullShard", "mode: full_shard, intercept: dispatch_key"},
    {"FullShardByObserver", "mode: full_shard, intercept: observer"},
    {"FullShardByMessages",
     "mode: full_shard, prefetch: 2",
     {2, 4},
     {{"TRAINER_NODE_MEMORY", "0"}}},
    {"ShardGradOp", "mode: shard_grad_op, intercept: dispatch_key"},
    {"ShardGradOpByMessages", "mode: shard_grad_op", {2}, {{"TRAINER_NODE_MEMORY", "0"}}},
    {"ShardOptimizer", "mode: shard_optimizer, intercept: dispatch_key"},
    {"ShardOptimizerByMessages", "mode: shard_optimizer", {2}, {{"TRAINER_NODE_MEMORY", "0"}}},
    {"NoShard", "mode: no_shard, intercept: dispatch_key"},
    {"Hybrid", "mode: hybrid_shard, mesh: {replicate: 2, shard: 2}", {4}},
    {"HybridByMessages",
     "mesh: {replicate: 2, shard: 2}, reduce_each_batch: false",
     {4},
     {{"TRAINER_NODE_MEMORY", "0"}}},
    {"ReducedOnce", "mode: full_shard, reduce_each_batch: false", {2, 4}},
    {"UnitsBySize", "min_unit_numel: 200, prefetch: 0", {2}, {{"TRAINER_NODE_MEMORY", "0"}}},
};

class FSDPFixture : public ParityFixture {
 protected:
  static void SetUpTestSuite() {
    ParityFixture::SetUpTestSuite();
    start(0, folder(0), {}, kCases);
  }
};

class FSDPParity : public FSDPFixture, public testing::WithParamInterface<Mode> {};
class FSDPResume : public FSDPFixture {
 protected:
  /// Batches of 12 are not shared by 3 ranks and 3 accumulated batches.
  static std::vector<std::string> cases(int ranks) {
    std::vector<std::string> all = {"clip_norm", "by_hand", "lamb", "muon", "schedule_free"};
    if (ranks != 3) {
      all.push_back("accumulation");
    }
    return all;
  }
  /// Within an epoch.
  static Folder stop(int ranks, const std::string& strategy) {
    auto out = folder(ranks) / ("stopped_" + std::to_string(num_stopped_++));
    start(ranks, out, {{"DDP_CASES_STOP", "23"}, {"DDP_CASES_STRATEGY", strategy}}, cases(ranks));
    return out;
  }
  /// Goes on as `same`, bit for bit, where that is given, else as one process up to the order of
  /// sums.
  static void expect_resumed(const Folder& stopped, const std::string& strategy, int after,
                             const Folder& same = {}) {
    const auto out = stopped / (strategy + std::to_string(after));
    start(after, out, {{"DDP_CASES_RESUME", stopped.string()}, {"DDP_CASES_STRATEGY", strategy}},
          cases(after));
    for (const auto& name : cases(after)) {
      expect_same_tensors(result_in(out, name), result_in(same.empty() ? folder(0) : same, name),
                          same.empty() ? 1e-12 : 0,
                          name + " by " + strategy + " on " + std::to_string(after),
                          same.empty() ? "weight/" : "");
    }
  }

 private:
  static inline int num_stopped_ = 0;
};

TEST_P(FSDPParity, EqualsOneProcess) {
  const auto& [mode, arguments, all_ranks, environment] = GetParam();
  for (const int ranks : all_ranks) {
    auto with_strategy = environment;
    with_strategy["DDP_CASES_STRATEGY"] = "{class_path: fsdp, init_args: {" + arguments + "}}";
    const auto out = folder(ranks) / mode;
    start(ranks, out, with_strategy, kCases);
    for (const auto& name : kCases) {
      const double tolerance = name == "float32"      ? 1e-5
                               : name == "bf16_mixed" ? 3e-2
                               : name == "fp16_mixed" ? 1e-2
                                                      : 1e-12;
      expect_same_tensors(result_in(out, name), result_in(folder(0), name),
                          ranks == 1 ? 0 : tolerance,
                          name + ", " + mode + " on " + std::to_string(ranks) + " ranks");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, FSDPParity, testing::ValuesIn(kModes),
                         [](const auto& info) { return info.param.name; });

TEST_F(FSDPResume, OnAnotherNumberOfRanksAndByAnotherStrategy) {
  const auto stopped = stop(4, "fsdp");
  const auto whole_run = folder(4) / "whole_run";
  start(4, whole_run, {{"DDP_CASES_STRATEGY", "fsdp"}}, cases(4));
  for (const int after : {0, 1, 2, 3, 4}) {
    for (const std::string strategy : {"fsdp", "auto"}) {
      const bool is_same = strategy == "fsdp" && after == 4;
      expect_resumed(stopped, strategy, after, is_same ? whole_run : Folder());
    }
  }
  expect_resumed(stopped, "{class_path: fsdp, init_args: {mode: shard_optimizer}}", 2);
  expect_resumed(stopped, "{class_path: fsdp, init_args: {mesh: {replicate: 2, shard: 2}}}", 4);
}

TEST_F(FSDPResume, OfOneProcessOrOfDDP) {
  for (const int before : {0, 2}) {
    const auto stopped = stop(before, "auto");
    for (const int after : {2, 3, 4}) {
      expect_resumed(stopped, "fsdp", after);
    }
  }
}

TEST_F(FSDPResume, OfAMeshWhereOneOfTwoCopiesIsSaved) {
  const auto stopped = stop(4, "{class_path: fsdp, init_args: {mesh: {replicate: 2, shard: 2}}}");
  expect_resumed(stopped, "fsdp", 2);
  expect_resumed(stopped, "auto", 0);
}

TEST_F(FSDPResume, ARankThatFailsWhileAveragesAreShownDoesNotWaitForTheOthers) {
  const auto result =
      result_of(2, folder(2) / "failed", {{"DDP_CASES_STRATEGY", "fsdp"}, {"DDP_CASES_FAIL", "1"}},
                {"schedule_free"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.err.find("rank 1/2"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("no idea how to validate"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace trainer::test
