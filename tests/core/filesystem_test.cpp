#include <trainer/core/filesystem.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/file_size_limit.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer::fs {
namespace {

using test::FileSizeLimit;
using test::read_file;
using test::TempDir;
using test::thrown;
using test::write_file;

TEST(ReadText, ReturnsTheBytesOfTheFile) {
  const TempDir dir;
  const std::string content("a\0\xff\n", 4);
  write_file(dir / "a", content);
  EXPECT_EQ(read_text(dir / "a"), content);
  EXPECT_EQ(read_text(dir / "a", 4), content);
  EXPECT_EQ(
      thrown<DataError>([&] { read_text(dir / "a", 3); }),
      (dir / "a").string() + ": is 4 bytes, more than the 3 that a file of this kind may have.");
}

TEST(ReadText, SaysWhatItCannotRead) {
  const TempDir dir;
  write_file(dir / "file", "");
  EXPECT_EQ(thrown<DataError>([&] { read_text(dir / "none"); }),
            (dir / "none").string() +
                ": cannot read: No such file or directory.\n  Check the "
                "path; relative paths start at the current folder.");
  EXPECT_EQ(
      thrown<DataError>([&] { read_text(dir.path()); }),
      dir.path().string() + ": cannot read: Is a directory.\n  This is a folder; give a file.");
  EXPECT_EQ(thrown<DataError>([&] { read_text(dir / "file" / "below"); }),
            (dir / "file" / "below").string() +
                ": cannot read: Not a directory.\n  A part of the path is a file, not a folder.");
}

TEST(WriteTextAtomically, ReplacesTheContentAndLeavesNothingElse) {
  const TempDir dir;
  write_text_atomically(dir / "a", "old");
  write_text_atomically(dir / "a", "new");
  EXPECT_EQ(read_file(dir / "a"), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(WriteTextAtomically, LeavesTheOldFileWhenItFails) {
  const TempDir dir;
  write_text_atomically(dir / "a", "old");
  {
    const FileSizeLimit limit(100);
    EXPECT_EQ(thrown<IoError>([&] { write_text_atomically(dir / "a", std::string(5000, 'x')); }),
              (dir / "a.tmp").string() + ": cannot write: File too large.");
  }
  EXPECT_EQ(read_file(dir / "a"), "old");
  write_text_atomically(dir / "a", "new");  // what the failure left behind is in nobody's way
  EXPECT_EQ(read_file(dir / "a"), "new");
}

TEST(WriteTextAtomically, WritesARelativePath) {
  const TempDir dir;
  const test::WorkingDirectory here(dir.path());
  write_text_atomically("a", "text");
  EXPECT_EQ(read_file(dir / "a"), "text");
}

TEST(CreateDirectories, MakesAllOfThemAndTakesThoseThatAreThere) {
  const TempDir dir;
  fs::create_directories(dir / "a" / "b");
  fs::create_directories(dir / "a" / "b");
  EXPECT_TRUE(std::filesystem::is_directory(dir / "a" / "b"));
  write_file(dir / "file", "");
  EXPECT_EQ(thrown<IoError>([&] { fs::create_directories(dir / "file" / "b"); }),
            (dir / "file" / "b").string() +
                ": cannot create this folder: Not a directory.\n  A "
                "part of the path is a file, not a folder.");
}

TEST(Rename, ReplacesAFileAndReportsAMissingOne) {
  const TempDir dir;
  write_file(dir / "a", "a");
  write_file(dir / "b", "b");
  fs::rename(dir / "a", dir / "b");
  EXPECT_EQ(read_file(dir / "b"), "a");
  EXPECT_THROW(fs::rename(dir / "a", dir / "b"), IoError);
}

TEST(Truncate, KeepsTheFirstBytes) {
  const TempDir dir;
  write_file(dir / "a", "12345");
  fs::truncate(dir / "a", 2);
  EXPECT_EQ(read_file(dir / "a"), "12");
  EXPECT_THROW(truncate(dir / "none", 2), IoError);
}

TEST(ReplaceDirectory, PutsOneFolderInThePlaceOfAnother) {
  const TempDir dir;
  for (const char* name : {"old", "new"}) {
    fs::create_directories(dir / name);
    write_file(dir / name / "content", name);
  }
  replace_directory(dir / "new", dir / "old");
  EXPECT_EQ(read_file(dir / "old" / "content"), "new");
  EXPECT_FALSE(std::filesystem::exists(dir / "new"));
  EXPECT_THROW(replace_directory(dir / "none", dir / "old"), IoError);
  EXPECT_EQ(read_file(dir / "old" / "content"), "new");
}

TEST(DirectoryLock, HasOneHolderAtATime) {
  const TempDir dir;
  auto first = DirectoryLock::try_lock(dir.path());
  ASSERT_TRUE(first);
  EXPECT_FALSE(DirectoryLock::try_lock(dir.path()));
  auto moved = std::move(first);
  EXPECT_FALSE(DirectoryLock::try_lock(dir.path()));
  moved.reset();
  EXPECT_TRUE(DirectoryLock::try_lock(dir.path()));
  EXPECT_THROW(DirectoryLock::try_lock(dir / "none"), IoError);
}

TEST(MappedFile, StaysValidWhenTheFileIsGone) {
  const TempDir dir;
  write_file(dir / "a", "abc");
  MappedFile first(dir / "a");
  std::filesystem::remove(dir / "a");
  const MappedFile second = std::move(first);
  ASSERT_EQ(second.bytes().size(), 3U);
  EXPECT_EQ(second.bytes()[2], std::byte{'c'});
  EXPECT_TRUE(first.bytes().empty());  // NOLINT: what a moved-from mapping holds is the claim
  EXPECT_THROW(MappedFile(dir / "a"), DataError);
}

TEST(MappedFile, OfAnEmptyFileIsEmpty) {
  const TempDir dir;
  write_file(dir / "a", "");
  EXPECT_TRUE(MappedFile(dir / "a").bytes().empty());
}

TEST(OutputFile, TruncatesOrAppends) {
  const TempDir dir;
  write_file(dir / "a", "old");
  OutputFile appended(dir / "a", OutputFile::Mode::kAppend);
  appended.write("er");
  appended.close();
  EXPECT_EQ(read_file(dir / "a"), "older");
  OutputFile truncated(dir / "a");
  truncated.write("x");
  truncated.sync();
  truncated.close();
  EXPECT_EQ(read_file(dir / "a"), "x");
  EXPECT_THROW(OutputFile(dir / "none" / "a"), IoError);
}

}  // namespace
}  // namespace trainer::fs
