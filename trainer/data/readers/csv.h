#pragma once
// Tables of numbers as text, such as the digits or the tabular sets of UCI: CSV files,
// gzip-compressed or not, read whole into one tensor. Every cell has to be a number; a file with
// gaps or words in it is refused with the place.

#include <cstdint>

#include <torch/types.h>

#include <trainer/core/filesystem.h>
#include <trainer/data/readers/gzip.h>

namespace trainer::data {

struct CsvOptions {
  /// The first line names the columns and is skipped, whatever it holds.
  bool header = false;
  /// Between the cells: any character that cannot be part of a number or a line end.
  char delimiter = ',';
  /// torch::kFloat32 or torch::kFloat64. float32 holds integers exactly up to 2^24.
  torch::Dtype dtype = torch::kFloat32;
  /// Takes nan, inf and infinity, in any case and with a sign, for numbers.
  bool allow_non_finite = false;
  /// Larger files, counted after decompression, are refused.
  uint64_t max_bytes = kMaxFileBytes;
};

/// The cells of a CSV file, each rounded once to the nearest value of the dtype.
///
/// Lines end with LF or CR LF; the last one need not. Spaces and tabs around a number and a UTF-8
/// byte order mark are ignored. No quotes, no comments, no blank lines. Plain CSV has no length and
/// no checksum: a file that was cut may still be a valid, shorter table. A cut .csv.gz is refused.
///
/// Shapes: [records, columns].
/// Throws: UsageError for a dtype or delimiter that is not supported. DataError when the file is
///         missing, unreadable, too large or without records; when its gzip data is damaged; when a
///         record has another number of columns than the first; and for a cell that is empty, not a
///         number, out of the range of the dtype or, unless allowed, not finite. Places are
///         file:line:column of the decompressed text, counted from 1, the column in bytes; records
///         do not count the header.
/// Source: RFC 4180, without its quotes.
torch::Tensor read_csv(const fs::Path& path, const CsvOptions& options = {});

}  // namespace trainer::data
