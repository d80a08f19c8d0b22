#include <span>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/checkpoint/safetensors.h>
#include <trainer/core/hash.h>

#include <tests/fuzz/fuzz.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

using namespace std::string_literals;

const std::vector<std::string> kJsonPieces = {"{",
                                              "}",
                                              "[",
                                              "]",
                                              ",",
                                              ":",
                                              "\"",
                                              "null",
                                              "-1",
                                              "\\",
                                              "true",
                                              "1e99",
                                              "\0"s,
                                              "\xff",
                                              "18446744073709551615",
                                              "\"schema\":1,",
                                              "[[[[[["};

TEST(CheckpointFuzz, SafetensorsAreReadOrRefused) {
  const TempDir dir;
  safetensors::save(dir / "whole", {{"a", torch::ones({2, 3})},
                                    {"b", torch::ones(4, torch::kBool)},
                                    {"c", torch::ones({0, 2})}});
  const std::string whole = read_file(dir / "whole");
  auto pieces = kJsonPieces;
  pieces.insert(pieces.end(), {"\"F64\"", "\"U8\"", "\"data_offsets\":[0,8]", "\"shape\":[]",
                               "1099511627776", "\xff\xff\xff\xff\xff\xff\xff\xff"});
  const auto count = fuzz(
      400, [&](auto& random) { return mutated(whole, pieces, random); },
      [&](const std::string& bytes) {
        const safetensors::File file(write_file(dir / "x", bytes));
        for (const auto& name : file.names()) {
          file.tensor(name).to(torch::kFloat64).sum().item<double>();
        }
      });
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

TrainerConfig saving(int64_t max_steps) {
  TrainerConfig config = quiet();
  config.max_steps = max_steps;
  config.logger = {"CSVLogger"};
  config.enable_checkpointing = true;
  config.callbacks = {use<EarlyStopping>({.monitor = "val_loss"}),
                      use<ModelCheckpoint>({.monitor = "val_loss"})};
  return config;
}

/// Trains a little and returns the checkpoint.
fs::Path train() {
  seed_everything(1);
  ToyModule module;
  ToyData data;
  Trainer(saving(15)).fit(module, data);
  const RunDirectory run("runs/version_0");
  return run.last().value();
}

TEST(CheckpointFuzz, ManifestIsReadOrRefused) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  const fs::Path checkpoint = train();
  const std::string whole = read_file(checkpoint / "manifest.json");
  const auto parsed = nlohmann::json::parse(whole);
  const auto count = fuzz(
      300,
      [&](auto& random) {
        return random() % 2 == 0 ? mutated(whole, kJsonPieces, random)
                                 : mutated(parsed, random).dump();
      },
      [&](const std::string& text) {
        write_file(checkpoint / "manifest.json", text);
        const CheckpointReader reader(checkpoint);
        reader.json("trainer_state.json");
        reader.tensors("model.safetensors");
        // What `last` finds goes through the same manifest.
        EXPECT_EQ(RunDirectory("runs/version_0").last().value(), checkpoint);
      });
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

/// A checkpoint that is whole by its hashes, but was written by someone else.
TEST(CheckpointFuzz, TrainerStateIsTakenOrRefused) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  const fs::Path checkpoint = train();
  const auto state = nlohmann::json::parse(read_file(checkpoint / "trainer_state.json"));
  auto manifest = nlohmann::json::parse(read_file(checkpoint / "manifest.json"));
  const auto count = fuzz(
      100, [&](auto& random) { return mutated(state, random).dump(); },
      [&](const std::string& text) {
        write_file(checkpoint / "trainer_state.json", text);
        manifest["files"]["trainer_state.json"] = {
            {"bytes", text.size()}, {"xxh3_128", hash::xxh3_128(std::as_bytes(std::span(text)))}};
        write_file(checkpoint / "manifest.json", manifest.dump());
        TrainerConfig config = saving(17);
        config.enable_checkpointing = false;
        config.callbacks = {use<EarlyStopping>({.monitor = "val_loss"})};
        ToyModule module;
        ToyData data;
        Trainer(config).fit(module, data, checkpoint.string());
      });
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

}  // namespace
}  // namespace trainer::test
