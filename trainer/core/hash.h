#pragma once
// Content hashes: XXH3-128, fast enough to check every checkpoint that is read.

#include <span>
#include <string>

#include <trainer/core/filesystem.h>

namespace trainer::hash {

/// XXH3-128 of the bytes as 32 lower-case hex digits.
/// Source: https://github.com/Cyan4973/xxHash, canonical (big-endian) form.
std::string xxh3_128(std::span<const std::byte> bytes);

/// The same over a file's content. Throws DataError when it cannot be read.
std::string xxh3_128_of_file(const fs::Path& path);

/// Bytes as lower-case hex digits, and back. from_hex() throws CheckpointError for text that is not
/// hex.
std::string to_hex(const std::string& bytes);
std::string from_hex(const std::string& text);

}  // namespace trainer::hash
