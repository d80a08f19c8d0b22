#include <trainer/core/hash.h>

#include <xxhash.h>

#include <charconv>
#include <memory>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::hash {
namespace {

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

std::string to_text(const XXH128_hash_t& hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

std::string xxh3_128(std::span<const std::byte> bytes) {
  return to_text(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string xxh3_128_of_file(const fs::Path& path) {
  const fs::MappedFile file(path);
  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  file.stream(0, file.bytes().size(), [&](std::span<const std::byte> piece) {
    XXH3_128bits_update(state.get(), piece.data(), piece.size());
  });
  return to_text(XXH3_128bits_digest(state.get()));
}

std::string to_hex(const std::string& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

std::string from_hex(const std::string& text) {
  if (text.size() % 2 != 0) {
    throw CheckpointError(fmt::format(
        "a text of {} hexadecimal digits is no number of bytes: damaged.", text.size()));
  }
  std::string bytes(text.size() / 2, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) {
    uint8_t byte = 0;
    const char* begin = text.data() + 2 * i;
    if (std::from_chars(begin, begin + 2, byte, 16).ptr != begin + 2) {
      throw CheckpointError(fmt::format("'{}' at digit {} is not hexadecimal: damaged.",
                                        text.substr(2 * i, 2), 2 * i));
    }
    bytes[i] = static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace trainer::hash
