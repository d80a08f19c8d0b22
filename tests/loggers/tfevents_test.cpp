#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <loggers/tfevents.h>

namespace trainer::tfevents {
namespace {

using namespace std::string_literals;

/// CRC-32C by its definition, a bit at a time.
uint32_t crc32c_by_bits(std::string_view data) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
    }
  }
  return ~crc;
}

TEST(TfEvents, Crc32cMatchesKnownVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string counting(32, '\0');
  std::iota(counting.begin(), counting.end(), '\0');
  EXPECT_EQ(crc32c(counting), 0x46DD794Eu);
  EXPECT_EQ(crc32c(std::string(counting.rbegin(), counting.rend())), 0x113FDB5Cu);
}

TEST(TfEvents, Crc32cOfAnyLengthAndAlignmentMatchesItsDefinition) {
  std::mt19937 random(1);
  std::string data(100, '\0');
  for (char& c : data) {
    c = static_cast<char>(random());
  }
  for (size_t begin = 0; begin < 9; ++begin) {
    for (size_t size = 0; begin + size <= data.size(); ++size) {
      const std::string_view part = std::string_view(data).substr(begin, size);
      ASSERT_EQ(crc32c(part), crc32c_by_bits(part)) << begin << " " << size;
    }
  }
}

TEST(TfEvents, RecordIsLengthAndEventWithMaskedCrcs) {
  // Made by the RecordWriter of TensorBoard 2.21.
  EXPECT_EQ(record("123456789"),
            "\x09\0\0\0\0\0\0\0\x37\xF9\x71\x39"s + "123456789" + "\xE5\xB0\x8A\xC7");
}

TEST(TfEvents, EventsAreTheBytesOfProtobuf) {
  EXPECT_EQ(file_version_event(1), "\x09\0\0\0\0\0\0\xF0\x3F\x1A\x0D"s + "brain.Event:2");
  EXPECT_EQ(session_start_event(0, 0), "\x09\0\0\0\0\0\0\0\0\x3A\x02\x08\x01"s);
  EXPECT_EQ(session_start_event(0, 300), "\x09\0\0\0\0\0\0\0\0\x10\xAC\x02\x3A\x02\x08\x01"s);
  std::string summary;
  append_scalar(summary, "a", 1.0f, false);
  append_scalar(summary, "b", -2.0f, true);
  EXPECT_EQ(summary, "\x0A\x08\x0A\x01"s + "a" + "\x15\0\0\x80\x3F"s + "\x0A\x15\x0A\x01"s + "b" +
                         "\x15\0\0\0\xC0"s + "\x4A\x0B\x0A\x09\x0A\x07scalars");
  EXPECT_EQ(summary_event(0, -1, "xy"),
            "\x09\0\0\0\0\0\0\0\0\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x2A\x02xy"s);
}

TEST(TfEvents, TagsBecomeUtf8) {
  std::string broken, replaced, valid;
  append_scalar(broken, "\xC3\xA9 \xFF", 0, false);
  append_scalar(replaced, "\xC3\xA9 \xEF\xBF\xBD", 0, false);
  EXPECT_EQ(broken, replaced);
}

}  // namespace
}  // namespace trainer::tfevents
