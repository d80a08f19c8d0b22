#include <trainer/data/readers/gzip.h>

#include <string>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using test::accepts;
using test::read_file;
using test::run_python;
using test::TempDir;
using test::thrown;
using test::write_file;

TEST(Gzip, GivesTheTextThatWasCompressed) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  const std::string text = read_file(folder / "text.bin");
  for (const auto* name :
       {"small.gz", "stored.gz", "named.gz", "members.gz", "padded.gz", "all_fields.gz"}) {
    EXPECT_EQ(read_maybe_gzip(folder / name), text) << name;
  }
  EXPECT_EQ(read_maybe_gzip(folder / "zeros.gz"), std::string(1 << 24, '\0'));
}

TEST(Gzip, IsToldByItsContentNotByItsName) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  const std::string text = read_file(folder / "text.bin");
  EXPECT_EQ(read_maybe_gzip(folder / "text.bin"), text);
  EXPECT_EQ(read_maybe_gzip(write_file(folder / "plain.gz", text)), text);
  EXPECT_EQ(read_maybe_gzip(write_file(folder / "packed.csv", read_file(folder / "small.gz"))),
            text);
  EXPECT_EQ(read_maybe_gzip(write_file(folder / "empty", "")), "");
}

TEST(Gzip, RefusesEveryCut) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  for (const auto* name : {"small.gz", "stored.gz", "all_fields.gz"}) {
    const std::string whole = read_file(folder / name);
    for (size_t size = 2; size < whole.size(); ++size) {  // shorter ones do not hold the magic
      const auto cut = write_file(folder / "cut.gz", whole.substr(0, size));
      EXPECT_FALSE(accepts([&] { read_maybe_gzip(cut); })) << name << " cut to " << size;
    }
  }
}

TEST(Gzip, RefusesOrSurvivesEveryChangedByte) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  const std::string text = read_file(folder / "text.bin");
  size_t num_refused = 0;
  const std::string whole = read_file(folder / "small.gz");
  // A change of the magic makes it a file that is not gzip.
  test::for_every_changed_byte(whole, 2, whole.size(), [&](const std::string& damaged, size_t at) {
    const auto path = write_file(folder / "damaged.gz", damaged);
    std::string found = text;
    num_refused += accepts([&] { found = read_maybe_gzip(path); }) ? 0 : 1;
    EXPECT_EQ(found, text) << "byte " << at;
  });
  EXPECT_GT(num_refused,
            (whole.size() - 10) * test::kNumChanges);  // all of the content, and some of the header
}

TEST(Gzip, ErrorsNameTheOffsetInTheCompressedFile) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  const std::string whole = read_file(folder / "stored.gz");
  const auto path = folder / "bad.gz";
  const std::string size = std::to_string(whole.size());
  const std::string fix = "\n  Copy or download the file again; 'gzip -t' checks it.";

  write_file(path, whole.substr(0, 100));
  EXPECT_EQ(thrown<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte 100 of 100: the gzip data ends too early." + fix);

  std::string damaged = whole;
  damaged[200] ^= 1;  // inside the content: only the checksum knows
  write_file(path, damaged);
  EXPECT_EQ(thrown<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte " + std::to_string(whole.size() - 4) + " of " + size +
                ": the gzip data is damaged (incorrect data check)." + fix);

  write_file(path, whole + "tail");
  EXPECT_EQ(thrown<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte " + size + " of " + std::to_string(whole.size() + 4) +
                ": the gzip data is followed by something else." + fix);
}

TEST(Gzip, RefusesContentAboveTheLimit) {
  const TempDir folder;
  run_python("data/readers/make_gzip.py", {folder.path().string()});
  const auto path = folder / "zeros.gz";
  const uint64_t size = 1 << 24;
  EXPECT_EQ(read_maybe_gzip(path, size).size(), size);
  EXPECT_EQ(thrown<DataError>([&] { read_maybe_gzip(path, size - 1); }),
            path.string() +
                ": expands to more than 16777215 bytes, the limit of this reader.\n"
                "  Check that this is the right file; split it, or raise max_bytes.");
  EXPECT_FALSE(accepts([&] { read_maybe_gzip(folder / "text.bin", 10); }));
}

}  // namespace
}  // namespace trainer::data
