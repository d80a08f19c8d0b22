// The program as several processes: started by itself and by mpirun.

#include <tests/cli/cli_fixture.h>

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>

#include <trainer/core/host.h>

namespace trainer::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;

using Words = std::vector<std::string>;

class LaunchTest : public CliTest {
 protected:
  /// With the threads that the program chooses.
  ProcessResult start(const Words& command,
                      const std::map<std::string, std::string>& environment = {}) const {
    Words all = {"env", "-u", "OMP_NUM_THREADS"};
    all.insert(all.end(), command.begin(), command.end());
    return run(all, dir_.path(), environment);
  }
  static Words mpirun(int num_processes, const Words& command) {
    Words all = {TRAINER_MPIEXEC, "--allow-run-as-root", "--oversubscribe", "-n",
                 std::to_string(num_processes)};
    all.insert(all.end(), command.begin(), command.end());
    return all;
  }
  static Words base_command(const std::string& stage, const Words& words = {}) {
    Words all = command({stage, "--config", "base.yaml", "--trainer.logger=[]",
                         "--trainer.enable_checkpointing=false"});
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
};

/// The processes with this text in their command line.
int processes_with(const std::string& text) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string words{std::istreambuf_iterator<char>(file), {}};
    count += words.find(text) != std::string::npos ? 1 : 0;
  }
  return count;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

/// Every line of standard error is a line of our log.
void expect_log_alone(const std::string& err) {
  std::istringstream lines(err);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(std::regex_match(line, std::regex("[0-9:]{8} [IW] .*"))) << line;
  }
}

TEST_F(LaunchTest, DevicesAloneStartsTheProcesses) {
  const auto result = start(base_command("validate", {"--trainer.devices=2"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(count(result.out, "val_loss"), 1) << result.out;
  EXPECT_THAT(result.err, ContainsRegex("I 2 processes on 1 node \\(Open MPI, mpirun\\), "));
  expect_log_alone(result.err);
}

TEST_F(LaunchTest, ACheckpointOfWhichEachRankWroteAPartIsMadeOneFile) {
  const auto trained = start(
      command({"fit", "--config", "base.yaml", "--trainer.devices=2", "--trainer.strategy=fsdp"}));
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const std::string checkpoint = "runs/version_0/checkpoints/epoch=0-step=4.ckpt";
  ASSERT_TRUE(std::filesystem::exists(dir_ / checkpoint / "model-rank00001.safetensors"));
  for (const std::string output : {"weights.safetensors", "new/folder/"}) {
    const auto file = output + (output.ends_with("/") ? "model.safetensors" : "");
    const auto result = trainer({"checkpoint", "consolidate", checkpoint, "--output", output});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.out, "weights     " + file + " (4 tensors)\n");
    const auto loaded = run({python(), "-c",
                             "import sys, safetensors.numpy\n"
                             "for name, x in sorted(safetensors.numpy.load_file(sys.argv[1])"
                             ".items()): print(name, *x.shape, x.dtype)\n",
                             file},
                            dir_.path());
    EXPECT_EQ(loaded.out,
              "fc1.bias 16 float32\nfc1.weight 16 64 float32\n"
              "fc2.bias 10 float32\nfc2.weight 10 16 float32\n")
        << loaded.err;
    EXPECT_EQ(base("test", {"--init_from=" + file}).out,
              base("test", {"--ckpt_path=" + checkpoint}).out);
  }
}

TEST_F(LaunchTest, MoreProcessesThanCoresShareThem) {
  const auto devices = "--trainer.devices=" + std::to_string(::sysconf(_SC_NPROCESSORS_ONLN) + 1);
  for (const char* stage : {"fit", "test"}) {
    const auto result =
        start(base_command(stage, {devices, "--trainer.enable_model_summary=false"}));
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr(", 1 thread each, "));
    EXPECT_THAT(result.err, ContainsRegex("processes share [0-9]+ core"));
    expect_log_alone(result.err);
  }
}

TEST_F(LaunchTest, TheNumberOfThreadsCanBeGiven) {
  const auto given = run(base_command("validate", {"--trainer.devices=2"}), dir_.path(),
                         {{"OMP_NUM_THREADS", "2"}});
  EXPECT_THAT(given.err, HasSubstr(", 2 threads each"));
}

TEST_F(LaunchTest, OnATerminalOneProgressBarIsDrawn) {
  const WorkingDirectory here(dir_.path());
  const auto shown = run_on_terminal(
      base_command("fit", {"--trainer.devices=2", "--trainer.enable_progress_bar=true"}), 100);
  EXPECT_THAT(shown, HasSubstr("\r\x1b[2K")) << "the line is redrawn";
  EXPECT_EQ(count(shown, "processes on 1 node"), 1) << shown;
}

TEST_F(LaunchTest, ANameThatNobodyKnowsDoesNotMatter) {
  if (run({"unshare", "--uts", "true"}).exit_code != 0) {
    GTEST_SKIP() << "unshare --uts is not permitted here";
  }
  const std::string line = "hostname nobody-knows.invalid && exec \"$@\"";
  Words words = {"unshare", "--uts", "sh", "-c", line, "sh"};
  const auto program = base_command("validate", {"--trainer.devices=2"});
  words.insert(words.end(), program.begin(), program.end());
  const auto result = start(words);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  expect_log_alone(result.err);
}

TEST_F(LaunchTest, NoMpirunIsToldWithWhereToGetOne) {
  const auto result =
      start(base_command("validate", {"--trainer.devices=2"}), {{"TRAINER_MPIRUN", "/no/mpirun"}});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "error: cannot start 2 processes on this computer: TRAINER_MPIRUN=/no/mpirun: No such "
            "file or directory. Name Open MPI's mpirun, or unset it.\n");
}

TEST_F(LaunchTest, AnMpirunOfAnotherMPIIsNoticed) {
  const auto fake = write_file(dir_ / "mpirun",
                               "#!/bin/sh\nwhile [ \"$1\" != --mca ]; do shift; done\n"
                               "shift 6\nexec \"$@\"\n");
  std::filesystem::permissions(fake, std::filesystem::perms::owner_all);
  const auto result =
      start(base_command("validate", {"--trainer.devices=2"}), {{"TRAINER_MPIRUN", fake.string()}});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err, "error: " + fake.string() +
                            " has started this process without telling it of the others: it is "
                            "not the mpirun of the Open MPI that this program uses. Name that in "
                            "TRAINER_MPIRUN.\n");
  const auto pmi = start(base_command("validate"), {{"PMI_RANK", "0"}, {"PMI_SIZE", "2"}});
  EXPECT_EQ(pmi.exit_code, 2);
  EXPECT_EQ(pmi.err,
            "error: PMI_SIZE is 2, but MPI has found 1 process: what has started this program is "
            "not of the MPI that it uses. Start it with Open MPI's mpirun, or with srun "
            "--mpi=pmix.\n");
}

TEST_F(LaunchTest, ProcessesThatCannotMeetTellItOnce) {
  const std::map<std::string, std::string> torchrun = {{"RANK", "0"}, {"WORLD_SIZE", "2"}};
  const auto result = start(base_command("validate"), torchrun);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("error: environment: RANK=0 and WORLD_SIZE=2"));
  const auto second = start(base_command("validate"), {{"RANK", "1"}, {"WORLD_SIZE", "2"}});
  EXPECT_EQ(second.exit_code, 2);
  EXPECT_EQ(second.err, "");
}

TEST_F(LaunchTest, UnderMpirunDevicesIsCompared) {
  const auto result = start(mpirun(2, base_command("validate", {"--trainer.devices=3"})));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, EndsWith("error: trainer.devices is 3, but mpirun has started 2 "
                                   "processes on node 1 of 1. Set devices to auto, or start 3 "
                                   "there.\n"));
  EXPECT_EQ(count(result.err, "error:"), 1) << result.err;
  const auto alone = start(mpirun(1, base_command("validate", {"--trainer.devices=3"})));
  EXPECT_EQ(alone.exit_code, 2);
  EXPECT_EQ(alone.err,
            "error: trainer.devices is 3, but mpirun has started 1 process on node 1 of 1. Set "
            "devices to auto, or start 3 there.\n");
  EXPECT_EQ(start(mpirun(2, base_command("validate", {"--trainer.devices=2"}))).exit_code, 0);
}

TEST_F(LaunchTest, WhatIsPrintedIsPrintedOnce) {
  for (const Words& words :
       {Words{"--help"}, Words{"list"}, Words{"schema"}, Words{"fit", "--help"},
        Words{"fit", "--config", "base.yaml", "--print_config"}}) {
    EXPECT_EQ(start(mpirun(2, command(words))).out, start(command(words)).out) << words[0];
  }
}

TEST_F(LaunchTest, TheConfigurationIsThatOfTheFirstRank) {
  std::filesystem::create_directory(dir_ / "elsewhere");
  const std::string data = "--data.init_args.path=" + (dir_ / "digits.csv.gz").string();
  const Words program = base_command("validate", {data});
  Words words = mpirun(1, program);
  words.insert(words.end(), {":", "--wdir", (dir_ / "elsewhere").string(), "-n", "1"});
  words.insert(words.end(), program.begin(), program.end());
  const auto result = start(words);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("val_loss"));
}

TEST_F(LaunchTest, AnErrorOfAllRanksIsToldOnce) {
  const auto wrong_key = start(mpirun(2, base_command("fit", {"--trainer.max_epoch=3"})));
  EXPECT_EQ(wrong_key.exit_code, 2);
  EXPECT_THAT(wrong_key.err, EndsWith("error: command line: trainer.max_epoch: unknown key. Did "
                                      "you mean 'max_epochs'?\n"));
  EXPECT_EQ(count(wrong_key.err, "error:"), 1) << wrong_key.err;

  const auto thrown =
      start(mpirun(2, base_command("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=Throws"})));
  EXPECT_EQ(thrown.exit_code, 1);
  EXPECT_THAT(thrown.err, EndsWith("error: no idea how to train\n"));
  EXPECT_EQ(count(thrown.err, "no idea"), 1) << thrown.err;
}

TEST_F(LaunchTest, ARankThatThrowsEndsAllWithItsMessageLast) {
  const std::string mark = "--trainer.default_root_dir=" + dir_.path().string();
  const Words program =
      base_command("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=ThrowsOnLastRank", mark,
                           "--trainer.num_sanity_val_steps=0"});
  Words by_itself = program;
  by_itself.push_back("--trainer.devices=3");
  for (const Words& words : {mpirun(2, program), by_itself}) {
    const auto began = std::chrono::steady_clock::now();
    const auto result = start(words);
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(30));
    EXPECT_EQ(result.exit_code, 1);
    const std::string rank = words == by_itself ? "2/3" : "1/2";
    EXPECT_THAT(result.err,
                EndsWith("error: rank " + rank + " (" + host_name() + "): no idea how to train\n"));
    EXPECT_EQ(processes_with(mark), 0);
  }
}

TEST_F(LaunchTest, ARankThatIsKilledEndsAll) {
  const auto result =
      start(base_command("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=DiesOnLastRank",
                                 "--trainer.devices=2", "--trainer.num_sanity_val_steps=0"}));
  EXPECT_EQ(result.exit_code, 137);
  EXPECT_THAT(result.err, ContainsRegex("process rank 1 .* exited on signal 9"));
}

TEST_F(LaunchTest, AProgramMayStartMPIItself) {
  const auto own = start(mpirun(2, {TRAINER_HOST_PROGRAM, "own", "well"}));
  EXPECT_EQ(own.exit_code, 0) << own.err;
  EXPECT_EQ(own.out, "host program: rank 0 of 2\n");
  expect_log_alone(own.err);
  const auto ours = start(mpirun(2, {TRAINER_HOST_PROGRAM, "ours", "well"}));
  EXPECT_EQ(ours.exit_code, 0) << ours.err;
  EXPECT_EQ(ours.out, "mpirun: rank 0 of 2\n");
  const auto alone = start({TRAINER_HOST_PROGRAM, "own", "well"});
  EXPECT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_EQ(alone.out, "host program: rank 0 of 1\n");
}

/// Plain MPI waits for ever in all but the last of these.
TEST_F(LaunchTest, AProgramWhoseRankFailsDoesNotHang) {
  const std::tuple<const char*, const char*, int> cases[] = {
      {"own", "failed", 3}, {"ours", "failed", 3}, {"ours", "returns", 4}, {"ours", "throws", 134}};
  for (const auto& [start_of, end, exit_code] : cases) {
    const auto result = start(mpirun(2, {TRAINER_HOST_PROGRAM, start_of, end}));
    EXPECT_EQ(result.exit_code, exit_code) << start_of << " " << end << "\n" << result.err;
    if (exit_code != 134) {
      EXPECT_THAT(result.err, HasSubstr("last words\n"));
      EXPECT_EQ(count(result.err, "\n"), 2) << "and the line of the log: " << result.err;
    }
  }
}

}  // namespace
}  // namespace trainer::test
