#include <tests/cli/cli_fixture.h>

#include <csignal>

#include <chrono>
#include <regex>
#include <thread>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/cli/plugin.h>

namespace trainer::test {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

nlohmann::json manifest(const std::filesystem::path& checkpoint) {
  return nlohmann::json::parse(read_file(checkpoint / "manifest.json"));
}

TEST_F(CliTest, FitTellsTheMetricsAndTheFilesOfTheRun) {
  const auto result = base("fit");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              ContainsRegex("validation  value\n-+\nval_acc     [0-9.]+\nval_loss    [0-9.]+\n"));
  EXPECT_THAT(result.out, HasSubstr("run         runs/version_0\n"
                                    "last        runs/version_0/checkpoints/epoch=0-step=4.ckpt\n"
                                    "best        runs/version_0/checkpoints/epoch=0-step=4.ckpt\n"
                                    "file        runs/version_0/config.yaml\n"));
  for (const auto* name : {"config.yaml", "metrics.csv", "metrics.jsonl", "provenance.json"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(dir_ / "runs" / "version_0" / name)) << name;
  }
  EXPECT_EQ(read_file(dir_ / "runs/version_0/checkpoints/last"), "epoch=0-step=4.ckpt\n");
}

TEST_F(CliTest, TestReadsTheBestCheckpoint) {
  train();
  const auto fresh = base("test");
  const auto trained = base("test", {"--ckpt_path=best"});
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_THAT(trained.out, ContainsRegex("test_acc   [0-9.]+\ntest_loss  [0-9.]+\n"));
  EXPECT_NE(trained.out, fresh.out) << "the weights of the checkpoint were not used";
}

TEST_F(CliTest, PredictWritesAFileOfProbabilities) {
  train();
  const auto result = base("predict", {"--ckpt_path=best"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "predictions of 9 batches: runs/version_0/predictions.safetensors\n");
  int64_t rows = 0;
  for (const auto& [name, batch] :
       safetensors::load(dir_ / "runs/version_0/predictions.safetensors")) {
    EXPECT_THAT(name, StartsWith("batch_00000"));
    ASSERT_EQ(batch.size(1), 10);
    EXPECT_TRUE(torch::allclose(batch.sum(1), torch::ones(batch.size(0))));
    rows += batch.size(0);
  }
  EXPECT_EQ(rows, 270);  // 15 % of the 1,797 digits
}

TEST_F(CliTest, LastGoesOnInTheSameFolder) {
  train();
  const auto result = base("fit", {"--ckpt_path=last", "--trainer.max_epochs=2"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err,
              HasSubstr("resuming from runs/version_0/checkpoints/epoch=0-step=4.ckpt"));
  EXPECT_THAT(result.out,
              HasSubstr("last        runs/version_0/checkpoints/epoch=1-step=8.ckpt\n"));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "runs/version_1"));
}

TEST_F(CliTest, RunNamesTheFolderThatLastIsLookedForIn) {
  train();
  ASSERT_EQ(base("fit", {"--trainer.max_epochs=2"}).exit_code, 0);
  const auto result =
      base("fit", {"--ckpt_path=last", "--run", "runs/version_0", "--trainer.max_epochs=3"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out,
              HasSubstr("last        runs/version_0/checkpoints/epoch=2-step=12.ckpt\n"));
}

TEST_F(CliTest, InitFromGivesTheWeightsOfAnEvaluationToo) {
  const std::string checkpoint = train();
  for (const char* stage : {"validate", "test"}) {
    const auto expected = base(stage, {"--ckpt_path=" + checkpoint});
    for (const std::string& weights : {checkpoint, checkpoint + "/model.safetensors"}) {
      const auto result = base(stage, {"--init_from=" + weights, "--seed_everything=42"});
      ASSERT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.out, expected.out) << stage;
      EXPECT_THAT(result.err, Not(HasSubstr("untrained")));
    }
  }
}

TEST_F(CliTest, ConsolidateTakesAWholeCheckpointToo) {
  const std::string checkpoint = train();
  const auto result = trainer({"checkpoint", "consolidate", checkpoint, "--output", "."});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(read_file(dir_ / "model.safetensors") ==
              read_file(dir_ / checkpoint / "model.safetensors"));
}

TEST_F(CliTest, ConsolidateSaysWhatItMisses) {
  const auto fails = [&](const std::vector<std::string>& words, int exit_code,
                         const std::string& message) {
    const auto result = trainer(words);
    EXPECT_EQ(result.exit_code, exit_code) << message;
    EXPECT_THAT(result.err, StartsWith("error: " + message));
  };
  fails({"checkpoint"}, 2, "command line: A subcommand is required");
  fails({"checkpoint", "consolidat"}, 2,
        "command line: there is no subcommand 'consolidat'. Did you mean 'consolidate'?");
  fails({"checkpoint", "consolidate"}, 2, "command line: checkpoint is required");
  fails({"checkpoint", "consolidate", "x"}, 2, "command line: --output is required");
  fails({"checkpoint", "consolidate", "x", "--output", "y", "--z"}, 2,
        "command line: The following argument was not expected: --z");
  fails({"checkpoint", "consolidate", "x", "--output", "y"}, 66,
        "x: there is no such checkpoint folder.");
  const std::string checkpoint = train();
  fails({"checkpoint", "consolidate", checkpoint, "--output", "nowhere/y"}, 74,
        "nowhere/y.tmp: cannot write: No such file or directory.");
  const auto help = trainer({"checkpoint", "consolidate", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("--output"));
}

TEST_F(CliTest, ResumedRunKeepsItsSeedAndSaysSo) {
  train();
  const auto same = base("fit", {"--ckpt_path=last", "--trainer.max_epochs=2"});
  EXPECT_THAT(same.err, Not(HasSubstr("seed")));
  const auto other =
      base("fit", {"--ckpt_path=last", "--trainer.max_epochs=3", "--seed_everything=7"});
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_THAT(other.err,
              HasSubstr("W the seed stays the checkpoint's 42: 7 has no effect on a resumed run"));
}

TEST_F(CliTest, PrintedConfigRunsAgainAndPrintsTheSame) {
  const auto printed = base("fit", {"--print_config"});
  ASSERT_EQ(printed.exit_code, 0) << printed.err;
  EXPECT_FALSE(std::filesystem::exists(dir_ / "runs")) << "it was to print only";
  write_file(dir_ / "printed.yaml", printed.out);
  EXPECT_EQ(trainer({"fit", "--config", "printed.yaml", "--print_config"}).out, printed.out);
  const auto result = trainer({"fit", "--config", "printed.yaml"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(CliTest, ConfigOfARunRunsAgain) {
  train();
  const auto result = trainer({"fit", "--config", "runs/version_0/config.yaml"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(read_file(dir_ / "runs/version_1/metrics.csv"),
            read_file(dir_ / "runs/version_0/metrics.csv"));
}

TEST_F(CliTest, OverridesHaveThreeSpellings) {
  const auto result = base("fit", {"--trainer.max_epochs=7", "--model.init_args.hidden", "24",
                                   "data.init_args.batch_size=5", "--print_config"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("max_epochs: 7\n"), HasSubstr("hidden: 24\n"),
                                HasSubstr("batch_size: 5\n")));
}

TEST_F(CliTest, LaterConfigsWinKeyByKey) {
  write_file(dir_ / "more.yaml", "trainer: {max_epochs: 9}\nmodel: {init_args: {lr: 0.5}}\n");
  const auto result = base("fit", {"--config", "more.yaml", "--print_config"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("max_epochs: 9\n"), HasSubstr("limit_train_batches: 4\n"),
                                HasSubstr("hidden: 16\n"), HasSubstr("lr: 0.5\n")));
}

TEST_F(CliTest, ArgumentsAreLaidOverAClassThatStandsAsItsName) {
  write_file(dir_ / "short.yaml", "plugins: [digits]\nmodel: DigitsMLP\ndata: DigitsData\n");
  write_file(dir_ / "more.yaml", "data: {init_args: {batch_size: 5}}\n");
  const auto result = trainer({"fit", "--config", "short.yaml", "--config", "more.yaml",
                               "--model.init_args.hidden=3", "--print_config"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("  class_path: DigitsMLP\n  init_args:\n    hidden: 3\n"),
                                HasSubstr("batch_size: 5\n")));
}

TEST_F(CliTest, ConfigOfARunWithAPlugInByPathRunsAgainWithIt) {
  std::filesystem::create_symlink(plugin_folder() / "libdigits.so", dir_ / "libmine.so");
  const auto result = base("fit", {"--plugins=[]", "--plugin", "libmine.so"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto again = trainer({"fit", "--plugin", "libmine.so", "--config",
                              "runs/version_0/config.yaml", "--trainer.default_root_dir=again"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(read_file(dir_ / "again/version_0/metrics.csv"),
            read_file(dir_ / "runs/version_0/metrics.csv"));
}

TEST_F(CliTest, ConfigCannotLoadCodeFromAPath) {
  std::filesystem::create_symlink(plugin_folder() / "libdigits.so", dir_ / "libmine.so");
  write_file(dir_ / "x.yaml", "plugins: [./libmine.so]\nmodel: DigitsMLP\ndata: DigitsData\n");
  const auto result = trainer({"fit", "--config", "x.yaml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err,
              HasSubstr("x.yaml:1:11: plugins: './libmine.so' is a path. A configuration names "
                        "plug-ins of the plug-in folder only; give this one on the command line: "
                        "--plugin ./libmine.so."));
}

TEST_F(CliTest, HelpShowsCommandsKeysAndExitCodes) {
  const auto program = trainer({"--help"});
  EXPECT_EQ(program.exit_code, 0);
  for (const auto* line : {"fit ", "validate ", "test ", "predict ", "list ", "launch ",
                           "Exit codes:", "  130  stopped by Ctrl-C"}) {
    EXPECT_THAT(program.out, HasSubstr(line));
  }
  const auto validate = trainer({"validate", "--help"});
  EXPECT_THAT(validate.out, HasSubstr("Of fit alone:\n  75   stopped by SIGUSR1"));
  const auto fit = trainer({"fit", "--help"});
  EXPECT_EQ(fit.exit_code, 0);
  EXPECT_THAT(
      fit.out,
      AllOf(
          HasSubstr("--trainer.max_steps=-1\n      int: Optimizer steps to train; -1 for no limit. "
                    "(>= -1)\n"),
          HasSubstr("--model=<module>\n"), HasSubstr("Exit codes:")));
}

TEST_F(CliTest, HelpOfAClassShowsItsArguments) {
  const auto result = trainer({"fit", "--help", "EarlyStopping"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, StartsWith("EarlyStopping (callback, built in)\n"
                                     "Stops training when a metric has stopped improving.\n"
                                     "init_args:\n"
                                     "  --monitor=<string>\n"
                                     "      string: Name of the metric to watch. (required)\n"));
  const auto of_plugin = base("fit", {"--help", "DigitsMLP"});
  EXPECT_THAT(of_plugin.out, StartsWith("DigitsMLP (module, plug-in digits)\n"));
}

TEST_F(CliTest, ListShowsBuiltInAndPlugInClasses) {
  const auto result = trainer({"list"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out,
              ContainsRegex("callback:\n  EarlyStopping +Stops training .* \\[built in\\]\n"));
  EXPECT_THAT(result.out,
              ContainsRegex("DigitsMLP +Two-layer perceptron .* \\[plug-in digits\\]\n"));
}

TEST_F(CliTest, DescribeShardingShowsUnitsAndMemory) {
  const auto config = [this](const std::string& strategy) {
    const auto file = tests_dir().parent_path() / "configs/gpt_bytes.yaml";
    return trainer({"describe-sharding", "--config", file.string(), "--ranks", "4",
                    "--trainer.strategy=" + strategy});
  };
  const auto sharded = config("fsdp");
  EXPECT_EQ(sharded.exit_code, 0) << sharded.err;
  EXPECT_THAT(sharded.out, ContainsRegex("\nh\\.1 +12 +198272 +0\\.19 +0\\.76\n"));
  EXPECT_THAT(sharded.out, HasSubstr("4 ranks: 4 slices, each 1 times. A rank needs about"));
  const auto whole = config("ddp");
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_THAT(whole.out, HasSubstr("every rank holds the whole module: 470528 elements, 1.8 MiB"));
  const auto wrong = config("{class_path: fsdp, init_args: {units: [blocks.*]}}");
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("the unit pattern 'blocks.*'"));
}

/// Trains until stopped by `signal`, checks the exit code and the checkpoint, and goes on from it.
void expect_stop_and_resume(const std::vector<std::string>& command,
                            const std::filesystem::path& dir, int signal, int exit_code) {
  auto endless = command;
  endless.push_back("--trainer.max_epochs=-1");
  Process process(endless, dir);
  const auto last = dir / "runs/version_0/checkpoints/last";
  for (int i = 0; i < 6000 && !std::filesystem::exists(last); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ::kill(process.pid(), signal);
  const auto stopped = process.wait();
  EXPECT_EQ(stopped.exit_code, exit_code) << stopped.err;

  std::smatch match;
  const std::regex line(
      "W stopped by signal " + std::to_string(signal) +
      " after ([0-9]+) steps; to go on, run the same command with --ckpt_path=last --run "
      "runs/version_0\n$");
  ASSERT_TRUE(std::regex_search(stopped.err, match, line)) << stopped.err;
  const int64_t steps = std::stoll(match[1]);
  std::string name = read_file(last);
  name.pop_back();
  EXPECT_EQ(manifest(last.parent_path() / name)["about"]["global_step"], steps);
  for (const auto& entry : std::filesystem::directory_iterator(last.parent_path())) {
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr(".tmp-")));
  }

  auto resume = command;
  resume.insert(resume.end(),
                {"--ckpt_path=last", "--run", "runs/version_0", "--trainer.max_epochs=-1",
                 "--trainer.max_steps=" + std::to_string(steps + 3)});
  const auto resumed = run(resume, dir);
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr(", step " + std::to_string(steps) + ")\n"));
  EXPECT_THAT(read_file(last), EndsWith("step=" + std::to_string(steps + 3) + ".ckpt\n"));
}

TEST_F(CliTest, CtrlCSavesACheckpointToGoOnFrom) {
  expect_stop_and_resume(
      command({"fit", "--config", "base.yaml", "--trainer.limit_train_batches=1.0"}), dir_.path(),
      SIGINT, 130);
}

TEST_F(CliTest, TerminationSavesACheckpointToGoOnFrom) {
  expect_stop_and_resume(
      command({"fit", "--config", "base.yaml", "--trainer.limit_train_batches=1.0"}), dir_.path(),
      SIGTERM, 143);
}

TEST_F(CliTest, UserSignalSavesACheckpointToGoOnFrom) {
  expect_stop_and_resume(
      command({"fit", "--config", "base.yaml", "--trainer.limit_train_batches=1.0"}), dir_.path(),
      SIGUSR1, 75);
}

}  // namespace
}  // namespace trainer::test
