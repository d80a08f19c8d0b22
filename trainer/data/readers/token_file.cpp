#include <trainer/data/readers/token_file.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer::data {
namespace {

/// Widens little-endian tokens; a mapping gives no typed objects, hence the memcpy.
template <typename Token>
void widen(const std::byte* stored, int64_t length, int64_t* out) {
  for (int64_t i = 0; i < length; ++i) {
    Token token{};
    std::memcpy(&token, stored + i * static_cast<int64_t>(sizeof(Token)), sizeof(Token));
    if constexpr (sizeof(Token) == 2 && std::endian::native == std::endian::big) {
      token = __builtin_bswap16(token);
    }
    out[i] = token;
  }
}

int64_t checked_token_bytes(torch::Dtype dtype) {
  if (dtype != torch::kUInt8 && dtype != torch::kUInt16) {
    throw UsageError(
        fmt::format("TokenFile: dtype {} is not supported. Choose torch::kUInt8 or torch::kUInt16.",
                    torch::toString(dtype)));
  }
  return static_cast<int64_t>(torch::elementSize(dtype));
}

}  // namespace

TokenFile::TokenFile(const fs::Path& path, torch::Dtype dtype, std::optional<int64_t> vocab_size)
    : token_bytes_(checked_token_bytes(dtype)), vocab_size_(vocab_size) {
  if (vocab_size && *vocab_size < 1) {
    throw UsageError(
        fmt::format("TokenFile: vocab_size is {}. Give the size of the tokenizer, or std::nullopt "
                    "for no check.",
                    *vocab_size));
  }
  file_ = fs::MappedFile(path);
  const auto size_bytes = static_cast<int64_t>(file_.bytes().size());
  if (size_bytes == 0) {
    throw DataError(fmt::format("{}: is empty.\n  Write the tokens again.", path.string()));
  }
  size_ = size_bytes / token_bytes_;
  if (size_bytes % token_bytes_ != 0) {
    throw DataError(fmt::format(
        "{}: byte {}: record {} is incomplete: the file is {} bytes, not a multiple of the {} "
        "of a token.\n  The file is cut, or its tokens are of another dtype.",
        path.string(), size_ * token_bytes_, size_, size_bytes, token_bytes_));
  }
}

torch::Tensor TokenFile::window(int64_t start, int64_t length) const {
  check_window(start, length);  // before the memory is asked for
  auto tokens = torch::empty({length}, torch::kInt64);
  copy(start, length, tokens.data_ptr<int64_t>());
  return tokens;
}

void TokenFile::copy(int64_t start, int64_t length, int64_t* out) const {
  check_window(start, length);
  const std::byte* stored = file_.bytes().data() + start * token_bytes_;
  if (token_bytes_ == 1) {
    widen<uint8_t>(stored, length, out);
  } else {
    widen<uint16_t>(stored, length, out);
  }
  check_vocabulary(start, length, out);
}

void TokenFile::check_window(int64_t start, int64_t length) const {
  if (start < 0 || length < 1 || length > size_ || start > size_ - length) {
    throw UsageError(fmt::format(
        "{}: a window of {} tokens from token {} is not in the file: it holds {} tokens.\n"
        "  Ask for at least one token, and none before 0 or after {}.",
        file_.path().string(), length, start, size_, size_ - 1));
  }
}

void TokenFile::check_vocabulary(int64_t start, int64_t length, const int64_t* tokens) const {
  if (!vocab_size_ || *std::max_element(tokens, tokens + length) < *vocab_size_) {
    return;
  }
  const auto* bad =
      std::find_if(tokens, tokens + length, [&](int64_t token) { return token >= *vocab_size_; });
  const int64_t record = start + (bad - tokens);
  throw DataError(
      fmt::format("{}: byte {}: record {}: token {} is outside the vocabulary of {}.\n"
                  "  The file was made by another tokenizer, is of another dtype, or is damaged.",
                  file_.path().string(), record * token_bytes_, record, *bad, *vocab_size_));
}

}  // namespace trainer::data
