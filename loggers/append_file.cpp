#include <loggers/append_file.h>

#include <filesystem>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr size_t kBufferBytes = size_t{64} << 10;

}  // namespace

AppendFile::AppendFile(const fs::Path& path)
    : file_(path, fs::OutputFile::Mode::kAppend), size_bytes_(std::filesystem::file_size(path)) {}

void AppendFile::append(std::string_view bytes) {
  buffer_ += bytes;
  if (buffer_.size() > kBufferBytes) {
    flush();
  }
}

void AppendFile::flush() {
  if (buffer_.empty()) {
    return;
  }
  try {
    file_.write(buffer_);
  } catch (const IoError&) {
    fs::truncate(path(), size_bytes_);  // a full disk takes a part of the bytes before it refuses
    throw;
  }
  size_bytes_ += buffer_.size();
  buffer_.clear();
}

void AppendFile::cut(uint64_t size_bytes) {
  flush();
  if (size_bytes < size_bytes_) {
    fs::truncate(path(), size_bytes);
    size_bytes_ = size_bytes;
  }
}

}  // namespace trainer
