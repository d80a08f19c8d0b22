#include <trainer/data/readers/gzip.h>

#include <string>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using test::accepts;
using test::Folder;
using test::message_of;
using test::read_bytes;
using test::run_python;
using test::write_bytes;

TEST(Gzip, GivesTheTextThatWasCompressed) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  const std::string text = read_bytes(folder / "text.bin");
  for (const auto* name :
       {"small.gz", "stored.gz", "named.gz", "members.gz", "padded.gz", "all_fields.gz"}) {
    EXPECT_EQ(read_maybe_gzip(folder / name), text) << name;
  }
  EXPECT_EQ(read_maybe_gzip(folder / "zeros.gz"), std::string(1 << 24, '\0'));
}

TEST(Gzip, IsToldByItsContentNotByItsName) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  const std::string text = read_bytes(folder / "text.bin");
  EXPECT_EQ(read_maybe_gzip(folder / "text.bin"), text);
  EXPECT_EQ(read_maybe_gzip(write_bytes(folder / "plain.gz", text)), text);
  EXPECT_EQ(read_maybe_gzip(write_bytes(folder / "packed.csv", read_bytes(folder / "small.gz"))),
            text);
  EXPECT_EQ(read_maybe_gzip(write_bytes(folder / "empty", "")), "");
}

TEST(Gzip, RefusesEveryCut) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  for (const auto* name : {"small.gz", "stored.gz", "all_fields.gz"}) {
    const std::string whole = read_bytes(folder / name);
    for (size_t size = 2; size < whole.size(); ++size) {  // shorter ones do not hold the magic
      const auto cut = write_bytes(folder / "cut.gz", whole.substr(0, size));
      EXPECT_FALSE(accepts([&] { read_maybe_gzip(cut); })) << name << " cut to " << size;
    }
  }
}

TEST(Gzip, RefusesOrSurvivesEveryChangedByte) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  const std::string text = read_bytes(folder / "text.bin");
  size_t num_refused = 0;
  const std::string whole = read_bytes(folder / "small.gz");
  // A change of the magic makes it a file that is not gzip.
  test::for_every_changed_byte(whole, 2, whole.size(), [&](const std::string& damaged, size_t at) {
    const auto path = write_bytes(folder / "damaged.gz", damaged);
    std::string found = text;
    num_refused += accepts([&] { found = read_maybe_gzip(path); }) ? 0 : 1;
    EXPECT_EQ(found, text) << "byte " << at;
  });
  EXPECT_GT(num_refused,
            (whole.size() - 10) * test::kNumChanges);  // all of the content, and some of the header
}

TEST(Gzip, ErrorsNameTheOffsetInTheCompressedFile) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  const std::string whole = read_bytes(folder / "stored.gz");
  const auto path = folder / "bad.gz";
  const std::string size = std::to_string(whole.size());
  const std::string fix = "\n  Copy or download the file again; 'gzip -t' checks it.";

  write_bytes(path, whole.substr(0, 100));
  EXPECT_EQ(message_of<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte 100 of 100: the gzip data ends too early." + fix);

  std::string damaged = whole;
  damaged[200] ^= 1;  // inside the content: only the checksum knows
  write_bytes(path, damaged);
  EXPECT_EQ(message_of<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte " + std::to_string(whole.size() - 4) + " of " + size +
                ": the gzip data is damaged (incorrect data check)." + fix);

  write_bytes(path, whole + "tail");
  EXPECT_EQ(message_of<DataError>([&] { read_maybe_gzip(path); }),
            path.string() + ": byte " + size + " of " + std::to_string(whole.size() + 4) +
                ": the gzip data is followed by something else." + fix);
}

TEST(Gzip, RefusesContentAboveTheLimit) {
  const Folder folder;
  run_python("make_gzip.py", folder);
  const auto path = folder / "zeros.gz";
  const uint64_t size = 1 << 24;
  EXPECT_EQ(read_maybe_gzip(path, size).size(), size);
  EXPECT_EQ(message_of<DataError>([&] { read_maybe_gzip(path, size - 1); }),
            path.string() +
                ": expands to more than 16777215 bytes, the limit of this reader.\n"
                "  Check that this is the right file; split it, or raise max_bytes.");
  EXPECT_FALSE(accepts([&] { read_maybe_gzip(folder / "text.bin", 10); }));
}

}  // namespace
}  // namespace trainer::data
