#include <loggers/tfevents.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include <nlohmann/json.hpp>

namespace trainer::tfevents {
namespace {

// table[0] advances the CRC by one byte, table[k] by that byte and k zero bytes behind it
// ("slicing-by-8").
constexpr auto kCrcTables = [] {
  constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli's, bits reversed
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    }
    tables[0][byte] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xFF];
    }
  }
  return tables;
}();

uint32_t read_u32(const char* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value |= uint32_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return value;
}

template <class UInt>
void append_little_endian(std::string& out, UInt value) {
  for (size_t i = 0; i < sizeof(UInt); ++i) {
    out += static_cast<char>(value >> (8 * i) & 0xFF);
  }
}

/// The format masks CRCs since a CRC of bytes that contain CRCs is weak.
uint32_t masked_crc32c(std::string_view data) { return std::rotr(crc32c(data), 15) + 0xA282EAD8; }

enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) {
    out += static_cast<char>(value | 0x80);
  }
  out += static_cast<char>(value);
}

void append_key(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | static_cast<uint32_t>(type));
}

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_key(out, field, WireType::kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

/// Event.wall_time and Event.step; protobuf leaves out zeros.
std::string event_head(double wall_time_s, int64_t step) {
  std::string event;
  append_key(event, 1, WireType::kFixed64);
  append_little_endian(event, std::bit_cast<uint64_t>(wall_time_s));
  if (step != 0) {
    append_key(event, 2, WireType::kVarint);
    append_varint(event, static_cast<uint64_t>(step));
  }
  return event;
}

/// SummaryMetadata{plugin_data{plugin_name: "scalars"}}.
std::string scalars_metadata() {
  std::string plugin_data;
  append_bytes(plugin_data, 1, "scalars");
  std::string metadata;
  append_bytes(metadata, 1, plugin_data);
  return metadata;
}

std::string valid_utf8(std::string_view text) {
  const bool ascii =
      std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x80; });
  if (ascii) {
    return std::string(text);
  }
  return nlohmann::json::parse(
      nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  const auto& t = kCrcTables;
  uint32_t crc = 0xFFFFFFFF;
  for (; data.size() >= 8; data.remove_prefix(8)) {
    const uint32_t low = read_u32(data.data()) ^ crc;
    const uint32_t high = read_u32(data.data() + 4);
    crc = t[7][low & 0xFF] ^ t[6][low >> 8 & 0xFF] ^ t[5][low >> 16 & 0xFF] ^ t[4][low >> 24] ^
          t[3][high & 0xFF] ^ t[2][high >> 8 & 0xFF] ^ t[1][high >> 16 & 0xFF] ^ t[0][high >> 24];
  }
  for (const char c : data) {
    crc = (crc >> 8) ^ t[0][(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  }
  return ~crc;
}

std::string record(std::string_view event) {
  std::string out;
  out.reserve(event.size() + 16);
  append_little_endian(out, uint64_t{event.size()});
  append_little_endian(out, masked_crc32c(out));
  out += event;
  append_little_endian(out, masked_crc32c(event));
  return out;
}

std::string file_version_event(double wall_time_s) {
  std::string event = event_head(wall_time_s, 0);
  append_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string session_start_event(double wall_time_s, int64_t step) {
  constexpr uint64_t kStart = 1;
  std::string session_log;
  append_key(session_log, 1, WireType::kVarint);
  append_varint(session_log, kStart);
  std::string event = event_head(wall_time_s, step);
  append_bytes(event, 7, session_log);
  return event;
}

void append_scalar(std::string& summary, std::string_view tag, float value, bool with_metadata) {
  std::string scalar;
  append_bytes(scalar, 1, valid_utf8(tag));
  append_key(scalar, 2, WireType::kFixed32);
  append_little_endian(scalar, std::bit_cast<uint32_t>(value));
  if (with_metadata) {
    append_bytes(scalar, 9, scalars_metadata());
  }
  append_bytes(summary, 1, scalar);
}

std::string summary_event(double wall_time_s, int64_t step, std::string_view summary) {
  std::string event = event_head(wall_time_s, step);
  append_bytes(event, 5, summary);
  return event;
}

}  // namespace trainer::tfevents
