#pragma once
// The header of a safetensors file as text and as values; for safetensors.cpp alone.

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <torch/types.h>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/core/filesystem.h>

namespace trainer::safetensors::detail {

inline constexpr uint64_t kLengthBytes = 8;  // of the header, at the start of the file
inline constexpr uint64_t kMaxHeaderBytes =
    100'000'000;                              // the limit of the reference implementation
inline constexpr size_t kMaxDimensions = 64;  // more than the operators of LibTorch and NumPy take
inline constexpr std::string_view kMetadataKey = "__metadata__";

struct Dtype {
  std::string_view name;
  torch::ScalarType type;
};

/// In the order of the reference implementation, which lays out the data from the last to the
/// first.
inline constexpr std::array kDtypes = {
    Dtype{"BOOL", torch::kBool},
    Dtype{"U8", torch::kUInt8},
    Dtype{"I8", torch::kInt8},
    Dtype{"F8_E5M2", torch::kFloat8_e5m2},
    Dtype{"F8_E4M3", torch::kFloat8_e4m3fn},
    Dtype{"F8_E8M0", torch::kFloat8_e8m0fnu},
    Dtype{"F8_E4M3FNUZ", torch::kFloat8_e4m3fnuz},
    Dtype{"F8_E5M2FNUZ", torch::kFloat8_e5m2fnuz},
    Dtype{"I16", torch::kInt16},
    Dtype{"U16", torch::kUInt16},
    Dtype{"F16", torch::kFloat16},
    Dtype{"BF16", torch::kBFloat16},
    Dtype{"I32", torch::kInt32},
    Dtype{"U32", torch::kUInt32},
    Dtype{"F32", torch::kFloat32},
    Dtype{"C64", torch::kComplexFloat},
    Dtype{"F64", torch::kFloat64},
    Dtype{"I64", torch::kInt64},
    Dtype{"U64", torch::kUInt64},
};

/// "BOOL, U8, ...".
std::string dtype_names();

/// Text of unknown origin for a message: in quotes, cut, and with everything but printable ASCII
/// escaped.
std::string shown(std::string_view text);

/// Throws CheckpointError: what is wrong, where in the file, and what to do.
[[noreturn]] void damaged(const fs::Path& path, uint64_t offset, std::string_view what);

struct Header {
  std::vector<std::string> names;  // in the order of their data
  std::map<std::string, TensorInfo, std::less<>> infos;
  Metadata metadata;
};

/// Reads and checks the header. Throws CheckpointError.
Header read_header(const fs::MappedFile& file);

}  // namespace trainer::safetensors::detail
