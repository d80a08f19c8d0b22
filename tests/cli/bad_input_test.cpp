// Every bad input ends with its exit code and a message that says what, where, and how to fix it.

#include <tests/cli/cli_fixture.h>

namespace trainer::test {
namespace {

void expect_error(const ProcessResult& result, int exit_code, const std::string& message) {
  EXPECT_EQ(result.exit_code, exit_code);
  EXPECT_EQ(result.err, "error: " + message + "\n");
}

const char* const kCheckPath = "\n  Check the path; relative paths start at the current folder.";
const char* const kUseAnother =
    "\n  Resume from another checkpoint of this run, or pass --ckpt_path=last to choose the newest "
    "complete one.";
const char* const kUseItsConfig =
    "\n  Use the configuration that the checkpoint was made with (config.yaml lies in it), or "
    "another checkpoint.";

TEST_F(CliTest, ConfigIsMissing) {
  expect_error(trainer({"fit", "--config", "missing.yaml"}), 2,
               std::string("missing.yaml: cannot read: No such file or directory.") + kCheckPath);
}

TEST_F(CliTest, ConfigIsUnreadable) {
  std::filesystem::create_directory(dir_ / "folder.yaml");
  expect_error(trainer({"fit", "--config", "folder.yaml"}), 2,
               "folder.yaml: cannot read: Is a directory.\n  This is a folder; give a file.");
}

TEST_F(CliTest, ConfigIsNoYaml) {
  write_file(dir_ / "broken.yaml", "trainer: {max_epochs: 1\nmodel: x\n");
  expect_error(
      trainer({"fit", "--config", "broken.yaml"}), 2,
      "broken.yaml:2:6: end of map flow not found. Check indentation, colons and quotes there.");
}

TEST_F(CliTest, EveryMistakeOfAConfigIsToldAtOnce) {
  write_file(dir_ / "wrong.yaml",
             "plugins: [digits]\n"
             "trainer:\n"
             "  max_epoch: 3\n"
             "  accumulate_grad_batches: 0\n"
             "model:\n"
             "  class_path: DigitsMLP\n"
             "  init_args: {hiden: 16, lr: fast}\n"
             "data:\n"
             "  class_path: DigitsData\n"
             "  init_args: {batch_size: -1, val_fraction: 2.0}\n");
  expect_error(
      trainer({"fit", "--config", "wrong.yaml"}), 2,
      "wrong.yaml:3:3: trainer.max_epoch: unknown key. Did you mean 'max_epochs'?\n"
      "wrong.yaml:4:28: trainer.accumulate_grad_batches: is '0': must be at least 1.\n"
      "wrong.yaml:7:15: model.init_args.hiden: unknown key. Did you mean 'hidden'?\n"
      "wrong.yaml:7:30: model.init_args.lr: is 'fast', not a number. Write it as 0.001 or 1e-3.\n"
      "wrong.yaml:10:27: data.init_args.batch_size: is '-1': must be at least 1.\n"
      "wrong.yaml:10:45: data.init_args.val_fraction: is '2.0': must lie between 0.0 and 1.0.");
}

TEST_F(CliTest, ClassIsUnknown) {
  expect_error(base("fit", {"--model=DigitMLP"}), 2,
               "command line: model: unknown module 'DigitMLP'. Did you mean 'DigitsMLP'? `trainer "
               "list` shows what there is; a class of a plug-in needs `plugins: [name]` or "
               "--plugin.");
}

TEST_F(CliTest, PlugInIsUnknown) {
  expect_error(base("list", {"--plugins=[digit]"}), 2,
               "command line, plugins:1:2: no plug-in 'digit'. Did you mean 'digits'? There are: "
               "digits, gpt. One that lies elsewhere is given by --plugin PATH.");
}

TEST_F(CliTest, PlugInsAreNoList) {
  expect_error(base("list", {"--plugins=7"}), 2, "command line: plugins: is '7', not a list.");
  expect_error(base("fit", {"--plugins=7", "--model=", "--data="}), 2,
               "command line: plugins: is '7', not a list.\n"
               "command line: model: is empty, which names no module. Write its name, or "
               "{class_path: ..., init_args: {...}}.\n"
               "command line: data: is empty, which names no data module. Write its name, or "
               "{class_path: ..., init_args: {...}}.");
}

TEST_F(CliTest, PlugInFileIsMissing) {
  const std::string folder = std::filesystem::canonical(dir_.path());
  expect_error(base("fit", {"--plugin", "nothing.so"}), 2,
               "--plugin nothing.so: there is no plug-in " + folder +
                   "/nothing.so. Build it, or check the path; relative paths start at the current "
                   "folder.");
}

TEST_F(CliTest, OptionIsUnknown) {
  expect_error(base("fit", {"--fast"}), 2,
               "command line: '--fast' is no override. Write key.path=value.");
}

TEST_F(CliTest, MistakesOfTheCommandLineAreToldWithThoseOfTheConfig) {
  expect_error(base("fit", {"--fast", "--trainer.max_epoch=3", "faster", "--plugin", "./x.so",
                            "--plugins=[digits, digit]"}),
               2,
               "command line: '--fast' is no override. Write key.path=value.\n"
               "command line: 'faster' is no override. Write key.path=value.\n"
               "--plugin ./x.so: there is no plug-in " +
                   std::filesystem::canonical(dir_.path()).string() +
                   "/x.so. Build it, or check the path; relative paths start at the current "
                   "folder.\n"
                   "command line: trainer.max_epoch: unknown key. Did you mean 'max_epochs'?\n"
                   "command line, plugins:1:10: no plug-in 'digit'. Did you mean 'digits'? There "
                   "are: digits, gpt. One that lies elsewhere is given by --plugin PATH.");
}

TEST_F(CliTest, EveryConfigThatCannotBeReadIsTold) {
  write_file(dir_ / "list.yaml", "[1, 2]\n");
  expect_error(trainer({"fit", "--config", "missing.yaml", "--config", "list.yaml"}), 2,
               std::string("missing.yaml: cannot read: No such file or directory.") + kCheckPath +
                   "\nlist.yaml: is a list, not a map of keys.");
}

TEST_F(CliTest, SubcommandIsUnknown) {
  expect_error(trainer({"ft"}), 2,
               "command line: there is no subcommand 'ft'. Did you mean 'fit'? There are: fit, "
               "validate, test, predict, list, schema, describe-sharding, checkpoint, launch.");
  expect_error(trainer({"ft", "--config", "base.yaml"}), 2,
               "command line: there is no subcommand 'ft'. Did you mean 'fit'? There are: fit, "
               "validate, test, predict, list, schema, describe-sharding, checkpoint, launch.");
}

TEST_F(CliTest, BatchSizeIsZero) {
  expect_error(base("fit", {"--data.init_args.batch_size=0"}), 2,
               "command line: data.init_args.batch_size: is '0': must be at least 1.");
}

TEST_F(CliTest, NothingIsLeftToTrainOn) {
  expect_error(base("fit", {"--data.init_args.val_fraction=0.9"}), 2,
               "base.yaml:9:43: data.init_args: val_fraction is '0.9' and test_fraction "
               "'0.15'. Each has to be above 0 and their sum below 1: the rest is for training.");
  EXPECT_EQ(base("fit", {"--data.init_args.test_fraction=0.85"}).exit_code, 2);
  EXPECT_EQ(base("fit", {"--data.init_args.test_fraction=0"}).exit_code, 2);
}

TEST_F(CliTest, DataIsMissing) {
  expect_error(base("fit", {"--data.init_args.path=nothing.csv.gz"}), 66,
               std::string("nothing.csv.gz: cannot read: No such file or directory.") + kCheckPath);
}

TEST_F(CliTest, DataIsDamaged) {
  write_file(dir_ / "cut.csv.gz", read_file(dir_ / "digits.csv.gz").substr(0, 5000));
  expect_error(base("fit", {"--data.init_args.path=cut.csv.gz"}), 66,
               "cut.csv.gz: byte 5000 of 5000: the gzip data ends too early.\n"
               "  Copy or download the file again; 'gzip -t' checks it.");
}

TEST_F(CliTest, DataIsEmpty) {
  write_file(dir_ / "empty.csv", "");
  expect_error(base("fit", {"--data.init_args.path=empty.csv"}), 66,
               "empty.csv: is empty.\n  Check the path, or write the file again.");
}

TEST_F(CliTest, DataIsTooLittleToSplit) {
  std::string row;
  for (int column = 0; column < 65; ++column) {
    row += column < 64 ? "1," : "1\n";
  }
  write_file(dir_ / "one.csv", row);
  expect_error(base("fit", {"--data.init_args.path=one.csv"}), 66,
               "one.csv: random_split: trainer::TensorDataset has size 1, too few samples for 3 "
               "parts. Give it more samples, or ask for fewer parts.");
}

/// A GPT of 16 tokens on a file of 100 bytes.
class GptTest : public CliTest {
 protected:
  void SetUp() override {
    write_file(dir_ / "gpt.yaml",
               "plugins: [gpt]\n"
               "trainer: {max_steps: 1, enable_progress_bar: false, enable_model_summary: false}\n"
               "model: {class_path: GPT, init_args: {block_size: 16, dim: 8, num_heads: 1}}\n"
               "data:\n"
               "  class_path: BytesData\n"
               "  init_args: {train_path: a.bin, val_path: a.bin, block_size: 16}\n");
    write_file(dir_ / "a.bin", std::string(100, 'a'));
  }
  ProcessResult fit(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {"fit", "--config", "gpt.yaml"};
    all.insert(all.end(), words.begin(), words.end());
    return trainer(all);
  }
};

TEST_F(GptTest, SequencesAreLongerThanTheModels) {
  expect_error(fit({"--data.init_args.block_size=32"}), 2,
               "GPT: a sequence has 32 tokens, and block_size is 16. Raise the model's, or lower "
               "the data's.");
}

TEST_F(GptTest, FileIsTooShort) {
  write_file(dir_ / "short.bin", "ab");
  expect_error(fit({"--data.init_args.val_path=short.bin"}), 66,
               "short.bin: has 2 tokens, too few for one sample of 16 and the token after it.\n"
               "  Give a longer file, or lower data.init_args.block_size.");
}

TEST_F(CliTest, DataHoldsNan) {
  write_file(dir_ / "nan.csv", "1,2,3\n4,nan,6\n");
  expect_error(base("fit", {"--data.init_args.path=nan.csv"}), 66,
               "nan.csv:2:3: record 2, column 2: 'nan' is not finite.\n"
               "  Drop the record or fill in a value; allow_non_finite = true lets it through.");
}

TEST_F(CliTest, ModuleLogsAVector) {
  expect_error(base("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=LogsVector"}), 1,
               "log('probabilities') in training_step: the value is a tensor of shape [3], not one "
               "number. Log value.mean(), say.");
}

TEST_F(CliTest, ModuleThrows) {
  const auto result = base("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=Throws"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("fit failed in epoch 0, batch 0, after 0 optimizer steps\n"
                            "error: no idea how to train\n"),
            std::string::npos)
      << result.err;
}

TEST_F(CliTest, ModuleThrowsWhatIsNoException) {
  const auto result = base("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=ThrowsNumber"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_TRUE(result.err.ends_with(
      "error: something was thrown that is no std::exception. Throw a class that derives from it, "
      "whose what() says what happened.\n"))
      << result.err;
}

TEST_F(CliTest, LibTorchWarnsOfTheSameInEachStep) {
  const auto result = base("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=WarnsInEachStep"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::string warning = "W LibTorch: the target has another shape\n";
  const size_t first = result.err.find(warning);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(warning, first + 1), std::string::npos) << "shown once";
}

TEST_F(CliTest, LossIsNan) {
  expect_error(
      base("fit", {"--plugin", TRAINER_BAD_MODULES, "--model=LosesFiniteness"}), 86,
      "the loss is NaN at epoch 0, batch 2, after 2 optimizer steps. The batch itself is finite.\n"
      "  What was saved before is untouched. Clip gradients (trainer.gradient_clip_val; a resumed "
      "run takes it), or begin anew with a lower learning rate, or set "
      "trainer.check_finite_loss=false to go on regardless.\n"
      "  After 2 steps. No checkpoint was saved.");
}

TEST_F(CliTest, CheckpointHasOtherShapes) {
  const std::string checkpoint = train();
  expect_error(
      base("test", {"--ckpt_path=" + checkpoint, "--model.init_args.hidden=32"}), 85,
      checkpoint +
          "/model.safetensors: belongs to another architecture:\n"
          "  other shape: fc1.weight is [16, 64] Float in the checkpoint, [32, 64] Float in the "
          "module\n"
          "  other shape: fc1.bias is [16] Float in the checkpoint, [32] Float in the module\n"
          "  other shape: fc2.weight is [10, 16] Float in the checkpoint, [10, 32] Float in the "
          "module" +
          kUseItsConfig);
}

TEST_F(CliTest, CheckpointHasOtherKeys) {
  const std::string checkpoint = train();
  expect_error(base("test", {"--ckpt_path=" + checkpoint, "--model=DigitsCNN"}), 85,
               "a checkpoint of DigitsMLP, not of DigitsCNN: " + checkpoint +
                   "/model.safetensors: belongs to another architecture:\n"
                   "  missing in the checkpoint: conv1.weight [32, 1, 3, 3] Float\n"
                   "  missing in the checkpoint: conv1.bias [32] Float\n"
                   "  missing in the checkpoint: conv2.weight [64, 32, 3, 3] Float\n"
                   "  missing in the checkpoint: conv2.bias [64] Float\n"
                   "  missing in the checkpoint: head.weight [10, 1024] Float\n"
                   "  missing in the checkpoint: head.bias [10] Float\n"
                   "  not in the module: fc1.bias [16] Float\n"
                   "  not in the module: fc1.weight [16, 64] Float\n"
                   "  not in the module: fc2.bias [10] Float\n"
                   "  not in the module: fc2.weight [10, 16] Float" +
                   kUseItsConfig);
}

TEST_F(CliTest, CheckpointIsCutShort) {
  const std::string checkpoint = train();
  std::filesystem::resize_file(dir_ / checkpoint / "model.safetensors", 5151);
  expect_error(base("test", {"--ckpt_path=" + checkpoint}), 85,
               checkpoint + ": model.safetensors is 5151 bytes, its manifest says 5152: damaged." +
                   kUseAnother);
}

TEST_F(CliTest, CheckpointHasAFlippedBit) {
  const std::string checkpoint = train();
  const auto weights = dir_ / checkpoint / "model.safetensors";
  std::string bytes = read_file(weights);
  bytes[2000] = static_cast<char>(bytes[2000] ^ 1);
  write_file(weights, bytes);
  expect_error(base("test", {"--ckpt_path=" + checkpoint}), 85,
               checkpoint +
                   ": model.safetensors does not have the content that its manifest says "
                   "(XXH3-128): damaged." +
                   kUseAnother);
}

TEST_F(CliTest, CheckpointIsIncomplete) {
  const std::string checkpoint = train();
  std::filesystem::remove(dir_ / checkpoint / "manifest.json");
  expect_error(base("test", {"--ckpt_path=" + checkpoint}), 85,
               checkpoint + ": has no manifest.json: incomplete, or no checkpoint of trainer." +
                   kUseAnother);
}

TEST_F(CliTest, CheckpointIsMissing) {
  expect_error(
      base("fit", {"--ckpt_path=nowhere.ckpt"}), 66,
      "nowhere.ckpt: there is no such checkpoint folder.\n"
      "  Check the path; --ckpt_path=last or best, in code RunDirectory, finds one by itself.");
}

TEST_F(CliTest, LastIsAskedForWithoutAnyRun) {
  expect_error(base("fit", {"--ckpt_path=last"}), 66,
               "--ckpt_path=last: no run below runs has a checkpoint of DigitsMLP.\n"
               "  Train first, or give the run by --run or the checkpoint by its path.");
}

TEST_F(CliTest, LastRunIsDamaged) {
  const std::string checkpoint = train();
  ASSERT_EQ(base("fit").exit_code, 0);
  const std::string newer = "runs/version_1/checkpoints/epoch=0-step=4.ckpt";
  write_file(dir_ / newer / "manifest.json", "");
  const auto before = read_file(dir_ / checkpoint / "manifest.json");
  expect_error(
      base("fit", {"--ckpt_path=last", "--trainer.max_epochs=2"}), 85,
      newer +
          "/manifest.json: is not a JSON object: damaged.\n  No checkpoint of this run can "
          "be read: name another run by --run, or a checkpoint by its path.");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "runs/version_2"));
  EXPECT_FALSE(std::filesystem::exists(dir_ / "runs/version_0/checkpoints/epoch=1-step=8.ckpt"));
  EXPECT_EQ(read_file(dir_ / checkpoint / "manifest.json"), before);
}

TEST_F(CliTest, RunIsMissing) {
  expect_error(base("fit", {"--ckpt_path=last", "--run", "nope"}), 66,
               std::string("--run nope: there is no such folder.") + kCheckPath);
}

TEST_F(CliTest, WhatIsPrintedCannotBeWritten) {
  for (const char* words : {"fit --config base.yaml --print_config", "list", "--help"}) {
    expect_error(
        run({"sh", "-c", TRAINER_PROGRAM + std::string(" ") + words + " >/dev/full"}, dir_.path()),
        74,
        "standard output: cannot write all of it.\n  Free some room where it goes, or "
        "send it elsewhere.");
  }
}

TEST_F(CliTest, RunsCannotBeWritten) {
  write_file(dir_ / "file", "");
  expect_error(base("fit", {"--trainer.default_root_dir=file/runs"}), 74,
               "file/runs: cannot create this folder: Not a directory.\n  A part of the path is a "
               "file, not a folder.");
}

}  // namespace
}  // namespace trainer::test
