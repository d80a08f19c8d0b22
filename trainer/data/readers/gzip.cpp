#include <trainer/data/readers/gzip.h>

#include <algorithm>
#include <limits>
#include <new>
#include <string_view>
#include <utility>
#include <zlib.h>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::data {
namespace {

constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib's way to say: gzip wrapper, largest window

bool starts_with_gzip_magic(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

/// zlib counts in 32 bits; longer buffers are given to it in pieces.
uInt piece_of(uint64_t size) {
  return static_cast<uInt>(std::min<uint64_t>(size, std::numeric_limits<uInt>::max()));
}

class GzipDecoder {
 public:
  GzipDecoder(const fs::Path& path, std::string_view compressed, uint64_t max_bytes)
      : path_(path), compressed_(compressed), rest_(compressed), max_bytes_(max_bytes) {
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) {
      throw std::bad_alloc();
    }
  }
  GzipDecoder(const GzipDecoder&) = delete;
  GzipDecoder& operator=(const GzipDecoder&) = delete;
  ~GzipDecoder() { inflateEnd(&stream_); }

  std::string decode() {
    do {
      decode_member();
    } while (start_next_member());
    text_.resize(size_);
    return std::move(text_);
  }

 private:
  void decode_member() {
    int status = Z_OK;
    while (status != Z_STREAM_END) {
      make_room();
      status = inflate_piece();
      if (status == Z_MEM_ERROR) {
        throw std::bad_alloc();
      }
      if (status == Z_BUF_ERROR) {  // there is room, so it is input that is missing
        fail("ends too early");
      }
      if (status != Z_OK && status != Z_STREAM_END) {
        fail(fmt::format("is damaged ({})", stream_.msg));
      }
      if (size_ > max_bytes_) {
        throw DataError(
            fmt::format("{}: expands to more than {} bytes, the limit of this reader.\n"
                        "  Check that this is the right file; split it, or raise max_bytes.",
                        path_.string(), max_bytes_));
      }
    }
  }

  /// Room for one byte more than allowed: that byte tells "too large" from "just fits".
  void make_room() {
    if (size_ == text_.size()) {
      constexpr uint64_t kFirstBytes = uint64_t{64} << 10;
      const uint64_t wanted = std::max({2 * size_, 4 * compressed_.size(), kFirstBytes});
      text_.resize(max_bytes_ < wanted ? max_bytes_ + 1 : wanted);
    }
  }

  int inflate_piece() {
    const uInt num_in = piece_of(rest_.size());
    const uInt num_out = piece_of(text_.size() - size_);
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(rest_.data()));  // only read
    stream_.avail_in = num_in;
    stream_.next_out = reinterpret_cast<Bytef*>(text_.data() + size_);
    stream_.avail_out = num_out;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    rest_.remove_prefix(num_in - stream_.avail_in);
    size_ += num_out - stream_.avail_out;
    return status;
  }

  bool start_next_member() {
    if (rest_.find_first_not_of('\0') == std::string_view::npos) {
      return false;
    }
    if (!starts_with_gzip_magic(rest_)) {
      fail("is followed by something else");
    }
    inflateReset(&stream_);
    return true;
  }

  [[noreturn]] void fail(std::string_view what) const {
    throw DataError(
        fmt::format("{}: byte {} of {}: the gzip data {}.\n"
                    "  Copy or download the file again; 'gzip -t' checks it.",
                    path_.string(), compressed_.size() - rest_.size(), compressed_.size(), what));
  }

  const fs::Path& path_;
  std::string_view compressed_;
  std::string_view rest_;
  uint64_t max_bytes_;
  z_stream stream_ = {};
  std::string text_;   // grown ahead of size_
  uint64_t size_ = 0;  // bytes of text_ that are decoded
};

}  // namespace

std::string read_maybe_gzip(const fs::Path& path, uint64_t max_bytes) {
  std::string content = fs::read_text(path, max_bytes);
  if (!starts_with_gzip_magic(content)) {
    return content;
  }
  return GzipDecoder(path, content, max_bytes).decode();
}

}  // namespace trainer::data
