#pragma once
// Token streams as nanoGPT's prepare.py writes them (train.bin): raw little-endian token ids, no
// header. Use it for language models whose data may be larger than memory: only the pages that are
// touched are loaded.

#include <cstdint>
#include <optional>

#include <torch/types.h>

#include <trainer/core/filesystem.h>

namespace trainer::data {

/// A memory-mapped file of tokens, read by windows. Const methods may be called by several threads
/// at once.
class TokenFile {
 public:
  /// `dtype` is what the tokens are stored as: torch::kUInt16 or torch::kUInt8. Where `vocab_size`
  /// is given, a window that holds a token of that id or above is refused.
  ///
  /// Throws: UsageError for another dtype or a vocab_size below 1; DataError when the file is
  ///         missing, unreadable, empty, or not a whole number of tokens. Nothing else can be
  ///         checked: the format has no header and no checksum.
  explicit TokenFile(const fs::Path& path, torch::Dtype dtype = torch::kUInt16,
                     std::optional<int64_t> vocab_size = std::nullopt);

  /// Number of tokens.
  int64_t size() const { return size_; }

  /// `length` tokens from token `start` (counted from 0) on.
  ///
  /// Shapes: int64 [length].
  /// Throws: UsageError when the window is empty or leaves the file; DataError for a token outside
  ///         the vocabulary, with its byte offset and its record: its index in the file, from 0.
  torch::Tensor window(int64_t start, int64_t length) const;

  /// The same into `out`, which has room for `length` values: fills a batch row by row.
  void copy(int64_t start, int64_t length, int64_t* out) const;

 private:
  void check_window(int64_t start, int64_t length) const;
  void check_vocabulary(int64_t start, int64_t length, const int64_t* tokens) const;

  fs::MappedFile file_;
  int64_t token_bytes_ = 0;
  std::optional<int64_t> vocab_size_;
  int64_t size_ = 0;
};

}  // namespace trainer::data
