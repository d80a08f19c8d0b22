#include <string>

#include <gtest/gtest.h>

#include <trainer/api.h>
#include <trainer/builtins.h>
#include <trainer/cli/run_config.h>
#include <trainer/core/yaml.h>

#include <tests/fuzz/fuzz.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

class FuzzModule : public ToyModule {
 public:
  struct Init {
    double lr = 1e-3;
    std::vector<int64_t> sizes = {1, 2};
    static constexpr auto fields() {
      return std::tuple{config::field<&Init::lr>("Learning rate.", config::at_least(0.0)),
                        config::field<&Init::sizes>("Sizes.")};
    }
  };
  explicit FuzzModule(const Init&) {}
};
TRAINER_REGISTER_MODULE(FuzzModule);

class FuzzData : public ToyData {};
TRAINER_REGISTER_DATA_MODULE(FuzzData);

const std::string kWhole =
    "seed_everything: 7\n"
    "trainer: &t\n"
    "  max_epochs: 3\n"
    "  gradient_clip_val: 1.5\n"
    "  limit_train_batches: 0.5\n"
    "  val_check_interval: 4\n"
    "  default_root_dir: \"runs\"\n"
    "  logger: [CSVLogger, {class_path: JSONLLogger}]\n"
    "  callbacks:\n"
    "    - class_path: EarlyStopping\n"
    "      init_args: {monitor: val_loss, patience: 2}\n"
    "    - LearningRateMonitor\n"
    "model: {class_path: FuzzModule, init_args: {lr: 1e-2, sizes: [1, 2, 3]}}\n"
    "data: FuzzData\n";

const std::vector<std::string> kPieces = {"&a ",         "*a",       "*t",
                                          "<<: *t",      "!!int ",   "? ",
                                          ": ",          "- ",       "{",
                                          "}",           "[",        "]",
                                          "|\n",         ">-\n",     "\"",
                                          "'",           "\n---\n",  "\n...\n",
                                          "#",           "\t",       "null",
                                          "~",           "010",      "1e400",
                                          ".nan",        "-.inf",    "1_000",
                                          "yes",         "\\x00",    "\xff",
                                          "\xc2\x85",    "%YAML",    "class_path: ",
                                          "init_args: ", "0x7",      "9223372036854775808",
                                          "1e300",       "-0",       "\r",
                                          "\n  ",        "trainer: "};

TEST(ConfigFuzz, YamlIsReadAndWrittenBackOrRefused) {
  const auto count = fuzz(
      1000, [](auto& random) { return mutated(kWhole, kPieces, random); },
      [](const std::string& text) {
        const std::string written = config::to_yaml(config::parse_yaml(text, "x.yaml"));
        EXPECT_EQ(config::to_yaml(config::parse_yaml(written, "written")), written) << text;
      });
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

RunConfig resolved(const std::string& text, const char* name) {
  config::Diagnostics diagnostics;
  return read_config(config::parse_yaml(text, name), diagnostics);
}

TEST(ConfigFuzz, RunIsResolvedOrRefused) {
  register_builtins();
  ASSERT_NO_THROW(resolved(kWhole, "x.yaml"));
  const auto count = fuzz(
      500, [](auto& random) { return mutated(kWhole, kPieces, random); },
      [](const std::string& text) {
        const auto run = resolved(text, "x.yaml");
        run.trainer.validate();
        // What a run writes down of its configuration makes the same run.
        const std::string written = config::to_yaml(config::write(run));
        const auto again = resolved(written, "written");
        EXPECT_EQ(config::to_yaml(config::write(again)), written) << text;
      });
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

}  // namespace
}  // namespace trainer::test
