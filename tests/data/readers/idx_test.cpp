#include <trainer/data/readers/idx.h>

#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using test::accepts;
using test::run_python;
using test::TempDir;
using test::thrown;
using test::write_file;

/// uint8 [2, 3], the numbers 1 to 6.
const std::string kSmall("\0\0\x08\x02\0\0\0\x02\0\0\0\x03\x01\x02\x03\x04\x05\x06", 18);

TEST(Idx, ReadsRandomArraysOfEveryTypePlainAndGzip) {
  const TempDir folder;
  run_python("data/readers/make_idx.py", {folder.path().string()});
  for (const auto& entry : test::index_of(folder)) {
    SCOPED_TRACE(entry.dump());
    test::expect_equals_raw(read_idx(folder / entry.at("file").get<std::string>()), entry, folder);
  }
}

TEST(Idx, ReadsAFileWrittenByHand) {
  const TempDir folder;
  const auto found = read_idx(write_file(folder / "x.idx", kSmall));
  EXPECT_TRUE(torch::equal(found, torch::tensor({{1, 2, 3}, {4, 5, 6}}, torch::kUInt8)));
}

TEST(Idx, RefusesEveryCutPlainAndGzip) {
  const TempDir folder;
  run_python("data/readers/make_idx.py", {folder.path().string()});
  for (const auto* name : {"int16_6.idx", "int16_7.idx"}) {  // the second one is gzip
    const std::string whole = test::read_file(folder / name);
    ASSERT_TRUE(accepts([&] { read_idx(folder / name); }));
    for (size_t size = 0; size < whole.size(); ++size) {
      const auto cut = write_file(folder / "cut.idx", whole.substr(0, size));
      EXPECT_FALSE(accepts([&] { read_idx(cut); })) << name << " cut to " << size;
    }
  }
}

TEST(Idx, EveryChangedHeaderByteIsRefusedOrUsesTheSameData) {
  const TempDir folder;
  size_t num_accepted = 0;
  test::for_every_changed_byte(kSmall, 0, 12, [&](const std::string& damaged, size_t at) {
    const auto path = write_file(folder / "x.idx", damaged);
    torch::Tensor found;
    if (accepts([&] { found = read_idx(path); })) {
      ++num_accepted;
      EXPECT_EQ(found.nbytes(), 6U) << "byte " << at;
    }
  });
  EXPECT_EQ(num_accepted, 1U);  // uint8 read as int8: nothing in the file contradicts it
}

TEST(Idx, ErrorsNameTheOffsetAndWhatWasExpected) {
  const TempDir folder;
  const auto path = folder / "x.idx";
  const auto error = [&](const std::string& bytes) {
    write_file(path, bytes);
    return thrown<DataError>([&] { read_idx(path); }).substr(path.string().size());
  };
  const std::string fix = "\n  This is no IDX file, or it is damaged: download it again.";
  EXPECT_EQ(error(""), ": byte 0: the file ends inside the 4 bytes of its magic number." + fix);
  EXPECT_EQ(error("PK\x03\x04"), ": byte 0: the magic number starts with 50 4b, not 00 00." + fix);
  EXPECT_EQ(error(std::string("\0\0\x0a\x01", 4)),
            ": byte 2: the type code is 0x0a, not one of 08 09 0b 0c 0d 0e." + fix);
  EXPECT_EQ(error(std::string("\0\0\x08\0", 4)), ": byte 3: the number of dimensions is 0." + fix);
  EXPECT_EQ(error(kSmall.substr(0, 11)),
            ": byte 11: the file ends inside the sizes of its 2 dimensions." + fix);
  EXPECT_EQ(error(kSmall.substr(0, 16)),
            ": byte 12: shape [2, 3] of 1-byte elements takes 6 bytes from here, the file holds 4: "
            "record 2 of 2 is incomplete.\n  The file is cut: copy or download it again.");
  EXPECT_EQ(error(kSmall + "xyz"),
            ": byte 12: shape [2, 3] of 1-byte elements takes 6 bytes from here, the file holds 9: "
            "3 too many.\n  Its header or its content is damaged: make or download it again.");
}

TEST(Idx, RefusesShapesLargerThanATensor) {
  const TempDir folder;
  const auto path = folder / "x.idx";
  const std::string magic("\0\0\x0e", 3);
  write_file(path, magic + '\x03' + std::string(12, '\xff'));
  EXPECT_EQ(thrown<DataError>([&] { read_idx(path); }),
            path.string() +
                ": shape [4294967295, 4294967295, 4294967295] in its header is larger than a "
                "tensor can be (64 dimensions, 2^63 bytes).\n"
                "  The header is damaged: make or download the file again.");
  // An empty dimension makes the size 0, but not the strides.
  write_file(path, magic + '\x04' + std::string(4, '\0') + std::string(12, '\xff'));
  EXPECT_FALSE(accepts([&] { read_idx(path); }));
  write_file(path, magic + '\xff' + std::string(255 * 4, '\0'));
  EXPECT_FALSE(accepts([&] { read_idx(path); }));
}

TEST(Idx, RefusesContentAboveTheLimit) {
  const TempDir folder;
  const auto path = write_file(folder / "x.idx", kSmall);
  EXPECT_TRUE(accepts([&] { read_idx(path, 18); }));
  EXPECT_FALSE(accepts([&] { read_idx(path, 17); }));
}

}  // namespace
}  // namespace trainer::data
