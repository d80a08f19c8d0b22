#include <trainer/core/filesystem.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::fs {
namespace {

/// Says what to do about the errors that users really meet.
std::string advice(int error, bool is_writing) {
  const std::string elsewhere =
      "choose another folder (--trainer.default_root_dir=...); validate and test write nothing "
      "with --trainer.logger=[].";
  switch (error) {
    case ENOENT: return "Check the path; relative paths start at the current folder.";
    case EACCES:
    case EPERM:
      return is_writing ? "Check the permissions, or " + elsewhere : "Check the permissions.";
    case EROFS: return "The file system is read-only; " + elsewhere;
    case ENOSPC:
    case EDQUOT: return "The disk is full; free some room or " + elsewhere;
    case ENOTDIR: return "A part of the path is a file, not a folder.";
    case EISDIR: return "This is a folder; give a file.";
    default: return "";
  }
}

template <class E>
[[noreturn]] void fail(const Path& path, std::string_view action, int error) {
  const std::string fix = advice(error, std::is_same_v<E, IoError>);
  throw E(fmt::format("{}: cannot {}: {}.{}{}", path.string(), action, std::strerror(error),
                      fix.empty() ? "" : "\n  ", fix));
}

/// A file descriptor that is closed on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

uint64_t size_of_regular_file(const Path& path, int fd) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    fail<DataError>(path, "read", errno);
  }
  if (S_ISDIR(info.st_mode)) {
    fail<DataError>(path, "read", EISDIR);
  }
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

std::string read_text(const Path& path, uint64_t max_bytes) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    fail<DataError>(path, "read", errno);
  }
  const uint64_t size = size_of_regular_file(path, fd.get());
  if (size > max_bytes) {
    throw DataError(
        fmt::format("{}: is {} bytes, more than the {} that a file of this kind may have.",
                    path.string(), size, max_bytes));
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      fail<DataError>(path, "read", errno);
    }
    if (n == 0) {
      break;
    }
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

void write_text_atomically(const Path& path, std::string_view text) {
  write_atomically(path, [&](OutputFile& file) { file.write(text); });
}

void write_atomically(const Path& path, const std::function<void(OutputFile&)>& write) {
  const Path temporary = path.string() + ".tmp";
  OutputFile file(temporary);
  write(file);
  file.sync();
  file.close();
  fs::rename(temporary, path);
}

void create_directories(const Path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    fail<IoError>(path, "create this folder", error.value());
  }
}

void sync(const Path& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) {
    fail<IoError>(path, "flush to the disk", errno);
  }
}

void rename(const Path& from, const Path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail<IoError>(to, "put this in place", errno);
  }
  sync(to.has_parent_path() ? to.parent_path() : Path("."));
}

void replace_directory(const Path& from, const Path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    sync(to.has_parent_path() ? to.parent_path() : Path("."));
  } else if (errno == EINVAL || errno == ENOSYS) {
    const Path aside = from.string() + ".old";
    fs::rename(to, aside);
    fs::rename(from, to);
    fs::rename(aside, from);
  } else {
    fail<IoError>(to, "replace this folder", errno);
  }
  std::error_code error;
  std::filesystem::remove_all(from, error);
  if (error) {
    fail<IoError>(from, "remove this folder, which was replaced", error.value());
  }
}

void truncate(const Path& path, uint64_t size_bytes) {
  if (::truncate(path.c_str(), static_cast<off_t>(size_bytes)) != 0) {
    fail<IoError>(path, "cut", errno);
  }
}

MappedFile::MappedFile(const Path& path) : path_(path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) {
    fail<DataError>(path, "read", errno);
  }
  size_ = size_of_regular_file(path, fd.get());
  if (size_ == 0) {
    return;  // mmap refuses empty files; an empty span says the same
  }
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) {
    fail<DataError>(path, "map", errno);
  }
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

void MappedFile::stream(uint64_t offset, uint64_t size,
                        const std::function<void(std::span<const std::byte>)>& take) const {
  constexpr uint64_t kPiece = uint64_t{4} << 20;  // a multiple of every size of pages
  for (const uint64_t end = offset + size; offset < end;) {
    const uint64_t next = std::min(end, (offset / kPiece + 1) * kPiece);
    take(bytes().subspan(offset, next - offset));
    const uint64_t begin = offset / kPiece * kPiece;  // madvise() wants the start of a page
    ::madvise(const_cast<std::byte*>(data_) + begin, next - begin, MADV_DONTNEED);
    offset = next;
  }
}

std::optional<DirectoryLock> DirectoryLock::try_lock(const Path& path) {
  DirectoryLock lock(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.fd_ < 0) {
    fail<IoError>(path, "open this folder", errno);
  }
  if (::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    return std::nullopt;
  }
  return lock;
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

OutputFile::OutputFile(const Path& path, Mode mode) : path_(path) {
  fd_ = ::open(path.c_str(),
               O_WRONLY | O_CREAT | O_CLOEXEC | (mode == Mode::kAppend ? O_APPEND : O_TRUNC), 0644);
  if (fd_ < 0) {
    fail<IoError>(path_, "write", errno);
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
}

void OutputFile::write(const void* data, size_t size_bytes) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t n = ::write(fd_, next, size_bytes);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      fail<IoError>(path_, "write", errno);
    }
    next += n;
    size_bytes -= static_cast<size_t>(n);
  }
}

void OutputFile::sync() {
  if (::fsync(fd_) != 0) {
    fail<IoError>(path_, "flush to the disk", errno);
  }
}

void OutputFile::close() {
  if (::close(std::exchange(fd_, -1)) != 0) {
    fail<IoError>(path_, "close", errno);
  }
}

}  // namespace trainer::fs
