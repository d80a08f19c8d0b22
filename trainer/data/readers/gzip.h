#pragma once
// A whole file as bytes, gzip-compressed or not: data sets are handed out both ways, and the
// readers of CSV and IDX files need not care which.

#include <cstdint>
#include <string>

#include <trainer/core/filesystem.h>

namespace trainer::data {

/// The most that a reader takes into memory from one file, counted after decompression.
inline constexpr uint64_t kMaxFileBytes = uint64_t{16} << 30;

/// The content of `path`, decompressed when it starts with the gzip magic 1f 8b, whatever its name.
/// Several gzip members in a row are joined and zero padding after the last is ignored, as gzip
/// does.
///
/// Throws: DataError when the file is missing or unreadable; when the gzip data is cut or damaged
///         (its checksums are checked), with the offset in the compressed file; when the content is
///         more than `max_bytes`.
/// Source: RFC 1952.
std::string read_maybe_gzip(const fs::Path& path, uint64_t max_bytes = kMaxFileBytes);

}  // namespace trainer::data
