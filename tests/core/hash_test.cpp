#include <trainer/core/hash.h>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer::hash {
namespace {

std::string hash_of(const std::string& text) { return xxh3_128(std::as_bytes(std::span(text))); }

std::string counting(int size, int modulus) {
  std::string text;
  for (int i = 0; i < size; ++i) {
    text += static_cast<char>(i % modulus);
  }
  return text;
}

// From Python's xxhash 4.1.0: xxhash.xxh3_128_hexdigest(data). The lengths reach each of XXH3's
// ways.
TEST(Xxh3, EqualsTheReferenceImplementation) {
  EXPECT_EQ(hash_of(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_of("a"), "a96faf705af16834e6c632b61e964e1f");
  EXPECT_EQ(hash_of("abc"), "06b05ab6733a618578af5f94892f3950");
  EXPECT_EQ(hash_of(counting(17, 256)), "685bc458b37d057fc06e233df7729217");
  EXPECT_EQ(hash_of(counting(256, 256)), "f1f8a93f50849ac39408a4433b952d71");
  EXPECT_EQ(hash_of(counting(1000, 251)), "18bf41bc8229e27733ef703fb2b20ed1");
}

TEST(Xxh3, OfAFileIsThatOfItsContent) {
  const test::TempDir dir;
  for (const std::string& content : {std::string(), counting(1000, 251)}) {
    test::write_file(dir / "a", content);
    EXPECT_EQ(xxh3_128_of_file(dir / "a"), hash_of(content));
  }
  EXPECT_THROW(xxh3_128_of_file(dir / "none"), DataError);
}

TEST(Hex, IsReadBackAsTheSameBytes) {
  const std::string bytes = counting(256, 256);
  EXPECT_EQ(to_hex(std::string("\x00\x0f\xff", 3)), "000fff");
  EXPECT_EQ(from_hex(to_hex(bytes)), bytes);
  EXPECT_EQ(from_hex("AbCd"), "\xab\xcd");
  EXPECT_EQ(from_hex(""), "");
}

TEST(Hex, RefusesWhatIsNotHexadecimal) {
  EXPECT_EQ(test::thrown<CheckpointError>([] { from_hex("00x1"); }),
            "'x1' at digit 2 is not hexadecimal: damaged.");
  for (const char* text : {"0", "000", "0x", " 1", "+1", "-1", "1 "}) {
    EXPECT_THROW(from_hex(text), CheckpointError) << text;
  }
}

}  // namespace
}  // namespace trainer::hash
