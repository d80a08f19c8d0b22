#include <trainer/run_directory.h>

#include <unistd.h>

#include <gtest/gtest.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/error.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::TempDir;
using test::thrown;
using test::write_file;

/// A complete checkpoint with nothing in it.
fs::Path make_checkpoint(const fs::Path& run, const std::string& name, int64_t step,
                         const std::string& module = "Lit") {
  fs::create_directories(run / "checkpoints");
  CheckpointWriter writer(run / "checkpoints" / name);
  writer.add_text("state.json", "{}");
  writer.commit({{"module", module}, {"global_step", step}});
  return run / "checkpoints" / name;
}

TEST(CreateNext, CountsOnFromTheHighestVersion) {
  const TempDir dir;
  const fs::Path root = dir / "a" / "runs";
  EXPECT_EQ(RunDirectory::create_next(root).path(), root / "version_0");
  EXPECT_EQ(RunDirectory::create_next(root).path(), root / "version_1");
  for (const char* name : {"version_9", "version_10", "version_", "version_x", "version_-3",
                           "version_12x", "Version_99", "version_99999999999999999999"}) {
    std::filesystem::create_directory(root / name);
  }
  EXPECT_EQ(RunDirectory::create_next(root).path(), root / "version_11");
  EXPECT_TRUE(std::filesystem::is_directory(root / "version_11"));
}

TEST(CreateNext, SaysWhereItCannotWrite) {
  const TempDir dir;
  write_file(dir / "runs", "");
  EXPECT_EQ(thrown<IoError>([&] { RunDirectory::create_next(dir / "runs"); }),
            (dir / "runs").string() +
                ": cannot create this folder: Not a directory.\n  A part of "
                "the path is a file, not a folder.");
}

/// A folder that nobody may look into in the scope, not even root.
class Locked {
 public:
  explicit Locked(const fs::Path& folder) : folder_(folder), user_(::geteuid()) {
    std::filesystem::permissions(folder_, std::filesystem::perms::none);
    EXPECT_EQ(user_ == 0 ? ::seteuid(65534) : 0, 0);
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() {
    EXPECT_EQ(::seteuid(user_), 0);
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all);
  }

 private:
  fs::Path folder_;
  uid_t user_;
};

TEST(CreateNext, SaysWhereElseItCouldWriteAndReadersDoNot) {
  const TempDir dir;
  const fs::Path folder = dir / "locked";
  std::filesystem::create_directory(folder);
  const Locked locked(folder);
  EXPECT_EQ(thrown<IoError>([&] { RunDirectory::create_next(folder / "runs"); }),
            (folder / "runs").string() +
                ": cannot create this folder: Permission denied.\n  Check the permissions, or "
                "choose another folder (--trainer.default_root_dir=...); validate and test write "
                "nothing with --trainer.logger=[].");
  EXPECT_EQ(
      thrown<DataError>([&] { fs::read_text(folder / "a.yaml"); }),
      (folder / "a.yaml").string() + ": cannot read: Permission denied.\n  Check the permissions.");
}

TEST(Containing, FindsTheRunOfACheckpoint) {
  const auto run_of = [](const fs::Path& path) {
    const auto run = RunDirectory::containing(path);
    return run ? run->path().string() : "none";
  };
  EXPECT_EQ(run_of("runs/version_3/checkpoints/a.ckpt"), "runs/version_3");
  EXPECT_EQ(run_of("runs/version_3/checkpoints/a.ckpt/"), "runs/version_3");
  EXPECT_EQ(run_of("/x/checkpoints/a.ckpt"), "/x");
  EXPECT_EQ(run_of("runs/version_3/a.ckpt"), "none");
  EXPECT_EQ(run_of("a.ckpt"), "none");
  const TempDir dir;
  std::filesystem::create_directories(dir / "run" / "checkpoints");
  const test::WorkingDirectory here(dir / "run" / "checkpoints");
  EXPECT_EQ(run_of("a.ckpt"), std::filesystem::canonical(dir / "run").string());
}

TEST(Newest, IsTheLastRunWithACheckpointOfTheClass) {
  const TempDir dir;
  EXPECT_FALSE(RunDirectory::newest(dir / "none", "Lit").has_value());
  make_checkpoint(dir / "version_2", "a.ckpt", 1);
  make_checkpoint(dir / "version_10", "a.ckpt", 1);
  make_checkpoint(dir / "version_11", "a.ckpt", 1, "Other");
  std::filesystem::create_directories(dir / "version_12" / "checkpoints");
  std::filesystem::create_directory(dir / "version_13");
  EXPECT_EQ(RunDirectory::newest(dir.path(), "Lit")->path(), dir / "version_10");
  EXPECT_EQ(RunDirectory::newest(dir.path(), "Other")->path(), dir / "version_11");
  EXPECT_FALSE(RunDirectory::newest(dir.path(), "Third").has_value());
}

TEST(Pointers, NameACheckpointBesideThem) {
  const TempDir dir;
  const RunDirectory run(dir / "run");
  EXPECT_FALSE(run.last().has_value());
  const auto small = make_checkpoint(run.path(), "small.ckpt", 1);
  const auto large = make_checkpoint(run.path(), "large.ckpt", 20);
  EXPECT_EQ(run.last(), large) << "without a pointer it is the one with the most steps";
  EXPECT_FALSE(run.best().has_value());
  run.point("last", "small.ckpt");
  run.point("best", "large.ckpt");
  EXPECT_EQ(test::read_file(run.checkpoints() / "last"), "small.ckpt\n");
  EXPECT_EQ(run.last(), small);
  EXPECT_EQ(run.best(), large);
}

TEST(Pointers, ThatAreBrokenFallBackToTheMostSteps) {
  const TempDir dir;
  const RunDirectory run(dir / "run");
  make_checkpoint(run.path(), "small.ckpt", 1);
  const auto large = make_checkpoint(run.path(), "large.ckpt", 20);
  make_checkpoint(run.path(), "cut.ckpt", 99);
  std::filesystem::remove(run.checkpoints() / "cut.ckpt" / "manifest.json");
  make_checkpoint(run.path(), "unfinished.ckpt.tmp-12", 98);
  make_checkpoint(dir / "other", "a.ckpt", 97);
  for (const std::string content :
       {"", "\n", "gone.ckpt", "cut.ckpt", "../../other/checkpoints/a.ckpt", "..", "\xff\n",
        "large.ckpt small.ckpt"}) {
    write_file(run.checkpoints() / "last", content);
    write_file(run.checkpoints() / "best", content);
    EXPECT_EQ(run.last(), large) << content;
    EXPECT_FALSE(run.best().has_value()) << content;
  }
}

TEST(Pointers, ThatAreFarTooLongAreBrokenToo) {
  const TempDir dir;
  const RunDirectory run(dir / "run");
  const auto checkpoint = make_checkpoint(run.path(), "a.ckpt", 1);
  for (const size_t size : {300, 5000}) {
    write_file(run.checkpoints() / "last", std::string(size, 'x'));
    std::optional<fs::Path> last;
    EXPECT_NO_THROW(last = run.last()) << size;
    EXPECT_EQ(last, checkpoint) << size;
  }
}

TEST(Last, PassesOverAManifestWithValuesOfAnotherType) {
  const TempDir dir;
  const RunDirectory run(dir / "version_0");
  const auto good = make_checkpoint(run.path(), "good.ckpt", 1);
  make_checkpoint(run.path(), "bad.ckpt", 2);
  for (const char* manifest :
       {R"({"schema": "1", "files": {}, "about": {}})",
        R"({"schema": 1, "files": {}, "about": {"module": 5, "global_step": "x"}})"}) {
    write_file(run.checkpoints() / "bad.ckpt" / "manifest.json", manifest);
    std::optional<fs::Path> last;
    EXPECT_NO_THROW(last = run.last()) << manifest;
    EXPECT_EQ(last, good) << manifest;
    EXPECT_NO_THROW(RunDirectory::newest(dir.path(), "Lit")) << manifest;
  }
}

fs::Path opened(const std::string& ckpt_path, const std::optional<fs::Path>& run,
                const fs::Path& root) {
  return open_checkpoint(ckpt_path, run, root, "Lit").path();
}

TEST(OpenCheckpoint, TakesAPathAsItIs) {
  const TempDir dir;
  const auto path = make_checkpoint(dir / "version_0", "any.ckpt", 5);
  EXPECT_EQ(opened(path.string(), {}, "runs"), path);
}

TEST(OpenCheckpoint, LooksInTheGivenRunElseInTheNewest) {
  const TempDir dir;
  const auto old = make_checkpoint(dir / "version_0", "old.ckpt", 5);
  const auto newer = make_checkpoint(dir / "version_1", "new.ckpt", 1);
  RunDirectory(dir / "version_1").point("best", "new.ckpt");
  EXPECT_EQ(opened("last", {}, dir.path()), newer);
  EXPECT_EQ(opened("best", {}, dir.path()), newer);
  EXPECT_EQ(opened("last", dir / "version_0", dir.path()), old);
}

TEST(OpenCheckpoint, TakesTheNewestWholeOneWhereTheLastIsDamaged) {
  const TempDir dir;
  const RunDirectory run(dir / "version_0");
  const auto oldest = make_checkpoint(run.path(), "a.ckpt", 1);
  const auto older = make_checkpoint(run.path(), "b.ckpt", 2);
  const auto damaged = make_checkpoint(run.path(), "c.ckpt", 3);
  run.point("last", "c.ckpt");
  run.point("best", "c.ckpt");
  write_file(damaged / "state.json", "{\"other\": 1}");
  EXPECT_EQ(opened("last", {}, dir.path()), older);
  EXPECT_THROW(opened("best", {}, dir.path()), CheckpointError);
  write_file(older / "state.json", "");
  EXPECT_EQ(opened("last", {}, dir.path()), oldest);
  write_file(oldest / "state.json", "");
  EXPECT_EQ(thrown<CheckpointError>([&] { opened("last", {}, dir.path()); }),
            oldest.string() +
                ": state.json is 0 bytes, its manifest says 2: damaged.\n  No checkpoint of this "
                "run can be read: name another run by --run, or a checkpoint by its path.");
}

TEST(OpenCheckpoint, PassesByWhatIsNoRun) {
  const TempDir dir;
  const auto good = make_checkpoint(dir / "version_0", "a.ckpt", 5);
  std::filesystem::create_directory(dir / "version_1");
  write_file(dir / "version_2", "a file where a run should be");
  EXPECT_EQ(opened("last", {}, dir.path()), good);
}

TEST(OpenCheckpoint, DoesNotPassByTheNewestRunWhereItsCheckpointsAreDamaged) {
  const TempDir dir;
  make_checkpoint(dir / "version_0", "a.ckpt", 5);
  const auto damaged = make_checkpoint(dir / "version_1", "b.ckpt", 6);
  const fs::Path manifest = damaged / "manifest.json";
  const std::string advice =
      "\n  No checkpoint of this run can be read: name another run by --run, or a checkpoint by "
      "its path.";
  const auto error = [&](const std::optional<fs::Path>& run) {
    return thrown<CheckpointError>([&] { opened("last", run, dir.path()); });
  };
  write_file(manifest, "{\"sch");
  EXPECT_EQ(error({}), manifest.string() + ": is not a JSON object: damaged." + advice);
  RunDirectory(dir / "version_1").point("last", "b.ckpt");
  EXPECT_EQ(error({}), manifest.string() + ": is not a JSON object: damaged." + advice);
  EXPECT_EQ(error(dir / "version_1"), error({}));
  std::filesystem::remove(manifest);
  EXPECT_EQ(error({}), damaged.string() +
                           ": has no manifest.json: incomplete, or no checkpoint of trainer." +
                           advice);
  std::filesystem::create_directory(manifest);
  EXPECT_EQ(error({}), manifest.string() + ": cannot read: Is a directory." + advice);
}

TEST(OpenCheckpoint, TellsOfADamagedManifestBeforeItTakesAnOlderCheckpoint) {
  const TempDir dir;
  const RunDirectory run(dir / "version_0");
  const auto older = make_checkpoint(run.path(), "a.ckpt", 1);
  const auto damaged = make_checkpoint(run.path(), "b.ckpt", 2);
  run.point("last", "b.ckpt");
  run.point("best", "b.ckpt");
  write_file(damaged / "manifest.json", "");
  ::testing::internal::CaptureStderr();
  const auto path = opened("last", {}, dir.path());
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(path, older);
  EXPECT_NE(told.find((damaged / "manifest.json").string() +
                      ": is not a JSON object: damaged.\n  Trying the one before it, " +
                      older.string() + "."),
            std::string::npos)
      << told;
  EXPECT_THROW(opened("best", {}, dir.path()), CheckpointError);
}

TEST(OpenCheckpoint, SaysWhereItLookedInVain) {
  const TempDir dir;
  EXPECT_EQ(thrown<DataError>([&] { opened("last", {}, dir / "runs"); }),
            "--ckpt_path=last: no run below " + (dir / "runs").string() +
                " has a checkpoint of Lit.\n  Train first, or give the run by --run or the "
                "checkpoint by its path.");
  make_checkpoint(dir / "version_0", "a.ckpt", 5);
  EXPECT_EQ(thrown<DataError>([&] { opened("best", dir / "version_0", dir.path()); }),
            "--ckpt_path=best: " + (dir / "version_0").string() +
                " has no such checkpoint.\n  Try --ckpt_path=last, or give a path.");
  std::filesystem::create_directory(dir / "version_1");
  EXPECT_EQ(thrown<DataError>([&] { opened("last", dir / "version_1", dir.path()); }),
            "--ckpt_path=last: " + (dir / "version_1").string() +
                " has no checkpoint.\n  Train first, or name another run by --run, or a checkpoint "
                "by its path.");
  for (const char* name : {"last", "best"}) {
    EXPECT_EQ(thrown<DataError>([&] { opened(name, dir / "nope", dir.path()); }),
              "--run " + (dir / "nope").string() +
                  ": there is no such folder.\n  Check the path; relative paths start at the "
                  "current folder.");
  }
}

TEST(RunDirectory, IsClearedOfWhatAKilledProcessLeft) {
  const TempDir dir;
  const RunDirectory run(dir / "version_0");
  const auto good = make_checkpoint(run.path(), "a.ckpt", 1);
  std::filesystem::create_directories(run.checkpoints() / "b.ckpt.tmp-123");
  write_file(run.checkpoints() / "b.ckpt.tmp-123" / "model.safetensors", "half");
  run.remove_leftovers();
  EXPECT_FALSE(std::filesystem::exists(run.checkpoints() / "b.ckpt.tmp-123"));
  EXPECT_EQ(run.last(), good);
  RunDirectory(dir / "nowhere").remove_leftovers();
}

}  // namespace
}  // namespace trainer
