#include <trainer/core/hash.h>

#include <xxhash.h>

#include <fmt/format.h>

namespace trainer::hash {

std::string xxh3_128(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string xxh3_128_of_file(const fs::Path& path) {
  const fs::MappedFile file(path);
  return xxh3_128(file.bytes());
}

}  // namespace trainer::hash
