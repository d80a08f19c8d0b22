#pragma once
// A file that only grows at its end, through a buffer: what the loggers beside it write to.
// Appending costs a copy; the operating system sees the bytes when 64 KiB have come together or at
// flush().

#include <cstdint>
#include <string>
#include <string_view>

#include <trainer/core/filesystem.h>

namespace trainer {

class AppendFile {
 public:
  /// Opens the file, or makes an empty one. Throws IoError.
  explicit AppendFile(const fs::Path& path);

  /// Throws IoError when a full buffer cannot be written; the bytes stay in the buffer.
  void append(std::string_view bytes);

  /// Hands the buffer to the operating system. Throws IoError; the file is then as long as before
  /// and the buffer is kept, so that a later call can succeed without losing or repeating anything.
  void flush();

  /// Flushes and keeps the first `size_bytes` bytes. Throws IoError.
  void cut(uint64_t size_bytes);

  const fs::Path& path() const { return file_.path(); }

 private:
  fs::OutputFile file_;
  uint64_t size_bytes_;  // of the file, without the buffer
  std::string buffer_;
};

}  // namespace trainer
