#pragma once
// Files as the rest of the engine needs them: read whole within a limit, written atomically, mapped
// read-only.
//
// Writers throw IoError, readers DataError, both with the path and the system's own words.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace trainer::fs {

using Path = std::filesystem::path;

/// The whole file as text. Throws DataError when it is missing, unreadable or larger than
/// `max_bytes`.
std::string read_text(const Path& path, uint64_t max_bytes = uint64_t{1} << 30);

class OutputFile;

/// Replaces `path` by what `write` writes, so that a reader sees the old or the new content, never
/// a part: temporary file, fsync, rename, fsync of the folder. Throws IoError, and what `write`
/// throws.
void write_atomically(const Path& path, const std::function<void(OutputFile&)>& write);
void write_text_atomically(const Path& path, std::string_view text);

/// Creates the folder and those above it; does nothing where it exists. Throws IoError.
void create_directories(const Path& path);

/// Flushes a file or a folder to the disk. Throws IoError.
void sync(const Path& path);

/// Renames and makes the rename durable. Both must lie on one file system. Throws IoError.
void rename(const Path& from, const Path& to);

/// Puts the folder `from` in the place of the folder `to` in one step, so that at every moment one
/// of them is there whole, and removes what was replaced. Where the file system cannot exchange two
/// folders, the old one steps aside first. Throws IoError.
void replace_directory(const Path& from, const Path& to);

/// Cuts a file to its first `size_bytes` bytes. Throws IoError.
void truncate(const Path& path, uint64_t size_bytes);

/// A file mapped read-only; pages are loaded when touched. Stays valid when the file is renamed or
/// deleted. Throws DataError when the file is missing or unreadable.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const Path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Passes `size` bytes from `offset` on in pieces and lets go of their pages: what is read so may
  /// be larger than the memory.
  void stream(uint64_t offset, uint64_t size,
              const std::function<void(std::span<const std::byte>)>& take) const;
  const Path& path() const { return path_; }

 private:
  Path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Holds a folder for this process until it is destroyed or the process ends, however that happens.
class DirectoryLock {
 public:
  /// Nothing when another holder has it. A file system without locks (some network ones) lets
  /// everyone pass. Throws IoError when the folder cannot be opened.
  static std::optional<DirectoryLock> try_lock(const Path& path);
  DirectoryLock(DirectoryLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  DirectoryLock& operator=(DirectoryLock&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  int fd_;
};

/// A file being written from the start, closed (and its errors reported) by close(). Throws
/// IoError.
class OutputFile {
 public:
  enum class Mode { kTruncate, kAppend };
  explicit OutputFile(const Path& path, Mode mode = Mode::kTruncate);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(const void* data, size_t size_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Waits until the content is on the disk.
  void sync();
  void close();
  const Path& path() const { return path_; }

 private:
  Path path_;
  int fd_ = -1;
};

}  // namespace trainer::fs
