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
                                         "digits",
                                         "gpt",
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
class FSDPResume : public FSDPFixture {};

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
  const std::vector<std::string> cases = {"accumulation", "clip_norm"};
  const auto whole_run = folder(4) / "whole_run";
  const auto stopped = folder(4) / "stopped";
  start(4, whole_run, {{"DDP_CASES_STRATEGY", "fsdp"}}, cases);
  start(4, stopped, {{"DDP_CASES_STOP", "23"}, {"DDP_CASES_STRATEGY", "fsdp"}}, cases);
  for (const std::string strategy :
       {"fsdp", "auto", "{class_path: fsdp, init_args: {mode: shard_optimizer}}"}) {
    for (const int after : {1, 2, 3, 4}) {
      // That of accumulation does not divide by 3 ranks.
      const auto resumed = after == 3 ? std::vector<std::string>{"clip_norm"} : cases;
      const auto out = stopped / (strategy + std::to_string(after));
      start(after, out, {{"DDP_CASES_RESUME", stopped.string()}, {"DDP_CASES_STRATEGY", strategy}},
            resumed);
      for (const auto& name : resumed) {
        const bool is_same = strategy == "fsdp" && after == 4;
        expect_same_tensors(result_in(out, name), result_in(is_same ? whole_run : folder(0), name),
                            is_same ? 0 : 1e-12,
                            name + " by " + strategy + " on " + std::to_string(after),
                            is_same ? "" : "weight/");
      }
    }
  }
}

}  // namespace
}  // namespace trainer::test
