#include <trainer/checkpoint/checkpoint.h>

#include <gtest/gtest.h>

#include <trainer/core/hash.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer {
namespace {

using test::read_file;
using test::TempDir;
using test::thrown;
using test::write_file;

const std::string kUseAnother =
    "\n  Resume from another checkpoint of this run, or pass --ckpt_path=last to choose the newest "
    "complete one.";

const safetensors::Tensors& tensors() {
  static const safetensors::Tensors all = {{"a", torch::arange(6).reshape({2, 3})},
                                           {"b", torch::rand({5})}};
  return all;
}

fs::Path write_checkpoint(const fs::Path& path, const std::string& text = "some text") {
  CheckpointWriter writer(path);
  writer.add_text("state.json", R"({"text": ")" + text + "\"}");
  writer.add_tensors("model.safetensors", tensors());
  writer.commit({{"module", "Lit"}, {"global_step", 7}});
  return path;
}

size_t num_entries(const fs::Path& path) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path), {}));
}

TEST(Checkpoint, IsReadBackAsWritten) {
  const TempDir dir;
  const CheckpointReader reader(write_checkpoint(dir / "a.ckpt"));
  EXPECT_EQ(reader.path(), dir / "a.ckpt");
  EXPECT_EQ(reader.about(), (nlohmann::json{{"module", "Lit"}, {"global_step", 7}}));
  EXPECT_EQ(CheckpointReader::read_about(dir / "a.ckpt"), reader.about());
  EXPECT_EQ(reader.text("state.json"), R"({"text": "some text"})");
  EXPECT_EQ(reader.json("state.json").at("text"), "some text");
  const auto file = reader.tensors("model.safetensors");
  for (const auto& [name, tensor] : tensors()) {
    EXPECT_TRUE(torch::equal(file.tensor(name), tensor)) << name;
  }
  EXPECT_EQ(thrown<CheckpointError>([&] { (void)reader.text("other"); }),
            (dir / "a.ckpt").string() + ": has no other." + kUseAnother);
  EXPECT_EQ(num_entries(dir.path()), 1U);
}

TEST(Checkpoint, ReplacesTheOneInItsPlace) {
  const TempDir dir;
  write_checkpoint(dir / "a.ckpt", "old");
  write_file(dir / "a.ckpt" / "more", "");
  write_checkpoint(dir / "a.ckpt", "new");
  EXPECT_EQ(CheckpointReader(dir / "a.ckpt").json("state.json").at("text"), "new");
  EXPECT_EQ(num_entries(dir.path()), 1U);
  EXPECT_FALSE(std::filesystem::exists(dir / "a.ckpt" / "more"));
}

TEST(Checkpoint, ThatIsNotCommittedLeavesNothing) {
  const TempDir dir;
  write_checkpoint(dir / "a.ckpt", "old");
  {
    CheckpointWriter replacement(dir / "a.ckpt");
    CheckpointWriter fresh(dir / "b.ckpt");
    replacement.add_text("state.json", "new");
    fresh.add_tensors("model.safetensors", tensors());
  }
  EXPECT_EQ(num_entries(dir.path()), 1U);
  EXPECT_EQ(CheckpointReader(dir / "a.ckpt").json("state.json").at("text"), "old");
}

TEST(Checkpoint, ThatCannotBeWrittenIsAnIoError) {
  const TempDir dir;
  write_file(dir / "file", "");
  EXPECT_THROW(CheckpointWriter(dir / "file" / "a.ckpt"), IoError);
}

/// Damage of any kind is found before anything is used, and the file at fault is named.
void expect_damaged(const fs::Path& checkpoint, const std::string& file, const std::string& what) {
  const std::string message = thrown<CheckpointError>([&] { CheckpointReader reader(checkpoint); });
  EXPECT_NE(message.find(file), std::string::npos) << what << ": " << message;
}

TEST(Checkpoint, FindsEveryDamageOfEveryFile) {
  const TempDir dir;
  const fs::Path checkpoint = write_checkpoint(dir / "a.ckpt");
  for (const std::string name : {"state.json", "model.safetensors"}) {
    const std::string content = read_file(checkpoint / name);
    for (size_t i = 0; i < content.size(); ++i) {
      std::string flipped = content;
      flipped[i] = static_cast<char>(flipped[i] ^ 1);
      write_file(checkpoint / name, flipped);
      expect_damaged(checkpoint, name, "flipped byte " + std::to_string(i));
    }
    for (const size_t size : {size_t{0}, content.size() - 1}) {
      write_file(checkpoint / name, content.substr(0, size));
      expect_damaged(checkpoint, name, "cut to " + std::to_string(size));
    }
    std::filesystem::remove(checkpoint / name);
    expect_damaged(checkpoint, name, "removed");
    write_file(checkpoint / name, content);
  }
  EXPECT_NO_THROW(CheckpointReader reader(checkpoint));
}

TEST(Checkpoint, WithADamagedManifestGivesNoWrongFile) {
  const TempDir dir;
  const fs::Path checkpoint = write_checkpoint(dir / "a.ckpt");
  const std::string manifest = read_file(checkpoint / "manifest.json");
  const std::string state = read_file(checkpoint / "state.json");
  for (size_t bit = 0; bit < 8 * manifest.size(); ++bit) {
    std::string damaged = manifest;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    write_file(checkpoint / "manifest.json", damaged);
    try {
      EXPECT_EQ(CheckpointReader(checkpoint).text("state.json"), state) << bit;
    } catch (const CheckpointError&) {  // nothing else may come out
    } catch (const std::exception& error) {
      ADD_FAILURE() << "bit " << bit << ": " << error.what();
    }
  }
  for (size_t size = 0; size + 1 < manifest.size(); ++size) {
    write_file(checkpoint / "manifest.json", manifest.substr(0, size));
    expect_damaged(checkpoint, "manifest.json", "cut to " + std::to_string(size));
  }
}

TEST(Checkpoint, WithAManifestOfOtherTypesIsDamaged) {
  const TempDir dir;
  const fs::Path checkpoint = write_checkpoint(dir / "a.ckpt");
  for (const char* manifest :
       {R"({"schema": "1", "about": {}, "files": {}})", R"({"schema": 1, "about": {}})",
        R"({"schema": 1, "about": {}, "files": {"state.json": 3}})",
        R"({"schema": 1, "about": {}, "files": {"state.json": {"bytes": "21"}}})",
        R"({"schema": 1, "about": {}, "files": {"state.json": {"bytes": 21, "xxh3_128": 5}}})"}) {
    write_file(checkpoint / "manifest.json", manifest);
    EXPECT_THROW(CheckpointReader reader(checkpoint), CheckpointError) << manifest;
  }
}

TEST(Checkpoint, SaysWhatItMisses) {
  const TempDir dir;
  EXPECT_EQ(thrown<DataError>([&] { CheckpointReader reader(dir / "none.ckpt"); }),
            (dir / "none.ckpt").string() +
                ": there is no such checkpoint folder.\n  Check the path; --ckpt_path=last or "
                "best, in code RunDirectory, finds one by itself.");
  EXPECT_EQ(thrown<CheckpointError>([&] { CheckpointReader reader(dir.path()); }),
            dir.path().string() +
                ": has no manifest.json: incomplete, or no checkpoint of trainer." + kUseAnother);
  const fs::Path checkpoint = write_checkpoint(dir / "a.ckpt");
  write_file(checkpoint / "manifest.json", R"({"schema": 2, "files": {}, "about": {}})");
  EXPECT_EQ(thrown<CheckpointError>([&] { CheckpointReader reader(checkpoint); }),
            (checkpoint / "manifest.json").string() +
                ": has schema 2, this trainer reads schema 1.\n  Use the version of trainer that "
                "wrote it.");
}

TEST(Run, LeavesWeightsThatPythonReads) {
  const TempDir dir;
  const test::WorkingDirectory here(dir.path());
  TrainerConfig config = test::quiet();
  config.max_steps = 2;
  config.enable_checkpointing = true;
  test::ToyModule module;
  test::ToyData data;
  Trainer(config).fit(module, data);
  const auto result =
      test::run({test::python(), "-c",
                 "import glob, safetensors.numpy\n"
                 "path, = glob.glob('runs/version_0/checkpoints/*.ckpt/model.safetensors')\n"
                 "for name, x in sorted(safetensors.numpy.load_file(path).items()):\n"
                 "  print(name, *x.shape, x.dtype, x.tobytes().hex())\n"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::string expected;
  for (const std::string name : {"fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"}) {
    const auto tensor = module.named_parameters()[name].detach();
    expected += name;
    for (const int64_t size : tensor.sizes()) {
      expected += " " + std::to_string(size);
    }
    expected += " float32 " +
                hash::to_hex({static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()}) +
                "\n";
  }
  EXPECT_EQ(result.out, expected);
}

}  // namespace
}  // namespace trainer
