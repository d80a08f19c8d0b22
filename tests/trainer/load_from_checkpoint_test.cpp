#include <trainer/load_from_checkpoint.h>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

/// A module whose shape depends on its arguments.
class Sized : public ToyModule {
 public:
  struct Init {
    int64_t width = 3;
    static constexpr auto fields() { return std::tuple{config::field<&Init::width>("Width.")}; }
  };
  explicit Sized(const Init& init)
      : extra_(register_parameter("extra", torch::randn({init.width}))) {}
  void on_save_checkpoint(nlohmann::json& user) override { user["vocabulary"] = 7; }
  void on_load_checkpoint(const nlohmann::json& user) override { vocabulary = user["vocabulary"]; }

  int64_t vocabulary = 0;

 private:
  torch::Tensor extra_;
};

/// Trains a little and returns the checkpoint.
fs::Path trained(Module& module, const config::Node& hyperparams = {}) {
  ToyData data;
  TrainerConfig config = quiet();
  config.enable_checkpointing = true;
  config.max_steps = 3;
  Trainer trainer(config);
  trainer.set_hyperparams(hyperparams);
  trainer.fit(module, data);
  return *trainer.run_directory()->last();
}

TEST(LoadFromCheckpoint, GivesTheTrainedModuleForInference) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ToyModule module;
  const auto path = trained(module);
  const auto loaded = load_from_checkpoint<ToyModule>(path);
  EXPECT_FALSE(loaded->is_training());
  module.eval();
  const auto x = torch::randn({5, 6});
  EXPECT_TRUE(torch::equal(loaded->forward(x), module.forward(x)));
}

TEST(LoadFromCheckpoint, MakesTheModuleWithItsArguments) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  Sized module({.width = 9});
  const auto path =
      trained(module, config::parse_yaml("model: {class_path: Sized, init_args: {width: 9}}", "x"));
  const auto loaded = load_from_checkpoint<Sized>(path);
  EXPECT_TRUE(
      torch::equal(loaded->named_parameters()["extra"], module.named_parameters()["extra"]));
  EXPECT_EQ(loaded->vocabulary, 7);
  EXPECT_NO_THROW((load_from_checkpoint<Sized>(path, Sized::Init{.width = 9})));
  EXPECT_THROW((load_from_checkpoint<Sized>(path, Sized::Init{.width = 8})), CheckpointError);
}

TEST(LoadFromCheckpoint, AsksForArgumentsThatTheCheckpointDoesNotHold) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  Sized module({.width = 9});
  const auto path = trained(module);
  EXPECT_EQ(
      thrown<CheckpointError>([&] { load_from_checkpoint<Sized>(path); }),
      path.string() +
          ": holds no arguments of its module, as the Trainer that saved it was made by hand. "
          "Give them: load_from_checkpoint<T>(path, init).");
  EXPECT_NO_THROW((load_from_checkpoint<Sized>(path, Sized::Init{.width = 9})));
  const auto other = thrown<CheckpointError>([&] { load_from_checkpoint<ToyModule>(path); });
  EXPECT_EQ(other.find("a checkpoint of Sized, not of ToyModule: "), 0U) << other;
}

TEST(LoadFromCheckpoint, SaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_EQ(thrown<DataError>([&] { load_from_checkpoint<ToyModule>(dir / "none.ckpt"); }),
            (dir / "none.ckpt").string() +
                ": there is no such checkpoint folder.\n  Check the path; --ckpt_path=last or "
                "best, in code RunDirectory, finds one by itself.");
}

}  // namespace
}  // namespace trainer::test
