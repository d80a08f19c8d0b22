#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include <tests/cli/cli_fixture.h>

namespace trainer::test {
namespace {

class SchemaTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    const auto result = trainer({"schema"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    write_file(dir_ / "schema.json", result.out);
    schema_ = nlohmann::json::parse(result.out);
  }

  /// The places in these files at which the schema does not hold, a line each.
  std::string mistakes(const std::vector<std::string>& files) const {
    std::vector<std::string> check = {python(), (tests_dir() / "cli/schema_check.py").string(),
                                      "schema.json"};
    check.insert(check.end(), files.begin(), files.end());
    const auto result = run(check, dir_.path());
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }

  nlohmann::json schema_;
};

TEST_F(SchemaTest, HoldsForTheConfigsOfTheExamples) {
  std::vector<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator(tests_dir().parent_path() / "configs")) {
    files.push_back(entry.path().string());
  }
  ASSERT_GE(files.size(), 3U);
  EXPECT_EQ(mistakes(files), "");
}

TEST_F(SchemaTest, HoldsForWhatIsPrintedAndForEveryWayToWriteAClass) {
  const auto printed = base("fit", {"--print_config"});
  ASSERT_EQ(printed.exit_code, 0) << printed.err;
  write_file(dir_ / "printed.yaml", printed.out);
  write_file(dir_ / "ways.yaml",
             "trainer:\n"
             "  strategy: single_device\n"
             "  gradient_clip_val: null\n"
             "  limit_val_batches: 0.5\n"
             "  callbacks: [ModelSummary, {class_path: ModelCheckpoint, init_args: }]\n"
             "  logger: []\n"
             "  precision: 32\n"
             "model: DigitsMLP\n"
             "data: {class_path: DigitsData}\n");
  EXPECT_EQ(mistakes({"printed.yaml", "ways.yaml"}), "");
}

TEST_F(SchemaTest, FindsTheMistakesThatTheProgramFinds) {
  write_file(dir_ / "wrong.yaml",
             "trainer:\n"
             "  max_epoch: 3\n"
             "  max_steps: many\n"
             "  precision: fp16\n"
             "  callbacks: [EarlyStoping, EarlyStopping]\n"
             "model: {class_path: DigitsMLP, init_args: {hiden: 16}}\n");
  EXPECT_EQ(mistakes({"wrong.yaml"}),
            "wrong.yaml:$\n"  // no data
            "wrong.yaml:$.model\n"
            "wrong.yaml:$.trainer\n"  // max_epoch
            "wrong.yaml:$.trainer.callbacks[0]\n"
            "wrong.yaml:$.trainer.callbacks[1]\n"  // needs `monitor`
            "wrong.yaml:$.trainer.max_steps\n"
            "wrong.yaml:$.trainer.precision\n");
}

TEST_F(SchemaTest, DescribesKeysAndClasses) {
  const auto& trainer_keys = schema_["properties"]["trainer"]["properties"];
  EXPECT_EQ(trainer_keys["max_steps"]["description"],
            "Optimizer steps to train; -1 for no limit. (>= -1)");
  EXPECT_EQ(trainer_keys["precision"]["enum"],
            nlohmann::json({"32-true", "64-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed",
                            "32", "64", "16", "bf16", 32, 64, 16}));
  EXPECT_EQ(trainer_keys["strategy"]["$ref"], "#/$defs/strategy");
  EXPECT_EQ(schema_["$defs"]["strategy"]["anyOf"][0]["enum"], nlohmann::json({"DDP", "ddp"}));
  EXPECT_EQ(schema_["required"], nlohmann::json({"model", "data"}));
}

TEST_F(SchemaTest, KnowsTheClassesOfAPlugInByPath) {
  const auto result = trainer({"schema", "--plugin", TRAINER_BAD_MODULES});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, ::testing::HasSubstr("\"LosesFiniteness\""));
}

}  // namespace
}  // namespace trainer::test
