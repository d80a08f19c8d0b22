#include <strategies/mpi/reduce_kernel.h>

#include <algorithm>
#include <array>
#include <complex>
#include <cstring>
#include <type_traits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

/// What a dtype is reduced in.
template <class T>
struct Wide {
  using type = T;
};
template <>
struct Wide<c10::BFloat16> {
  using type = float;
};
template <>
struct Wide<c10::Half> {
  using type = float;
};

// Integers without a sign: theirs overflow as they should.
struct Sum {
  template <class W>
  static W combine(W a, W b) {
    if constexpr (std::is_integral_v<W>) {
      return static_cast<W>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    } else {
      return a + b;
    }
  }
};
struct Product {
  template <class W>
  static W combine(W a, W b) {
    if constexpr (std::is_integral_v<W>) {
      return static_cast<W>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    } else {
      return a * b;
    }
  }
};
struct Min {
  template <class W>
  static W combine(W a, W b) {
    return a < b || a != a ? a : b;
  }
};
struct Max {
  template <class W>
  static W combine(W a, W b) {
    return a > b || a != a ? a : b;
  }
};

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}
template <class T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

template <class T, class Op>
void reduce_as(const std::vector<const std::byte*>& from, const std::vector<std::byte*>& to,
               int64_t count, bool is_mean) {
  using W = typename Wide<T>::type;
  constexpr int64_t kBlock = 512;  // elements that stay in the first cache
  constexpr auto kSize = static_cast<int64_t>(sizeof(T));
  std::array<W, kBlock> block;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const auto each = [&](auto action) {
      for (int64_t i = 0; i < n; ++i) {
        action(block[static_cast<size_t>(i)], (begin + i) * kSize);
      }
    };
    each([&, row = from[0]](W& value, int64_t at) { value = W(load<T>(row + at)); });
    for (size_t r = 1; r < from.size(); ++r) {
      each([&, row = from[r]](W& value, int64_t at) {
        value = Op::combine(value, W(load<T>(row + at)));
      });
    }
    if constexpr (!std::is_integral_v<W> && std::is_same_v<Op, Sum>) {
      if (is_mean) {
        const auto ranks = static_cast<float>(from.size());
        each([&](W& value, int64_t) { value /= ranks; });
      }
    }
    for (std::byte* const row : to) {
      each([&](const W& value, int64_t at) { store(row + at, static_cast<T>(value)); });
    }
  }
}

template <class T>
void reduce_by(const std::vector<const std::byte*>& from, const std::vector<std::byte*>& to,
               int64_t count, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: return reduce_as<T, Sum>(from, to, count, false);
    case ReduceOp::kMean: return reduce_as<T, Sum>(from, to, count, true);
    case ReduceOp::kProduct: return reduce_as<T, Product>(from, to, count, false);
    case ReduceOp::kMin: return reduce_as<T, Min>(from, to, count, false);
    case ReduceOp::kMax: return reduce_as<T, Max>(from, to, count, false);
  }
}

}  // namespace

void reduce_rows(const std::vector<const std::byte*>& from, const std::vector<std::byte*>& to,
                 int64_t count, torch::ScalarType dtype, ReduceOp op) {
  if (from.size() == 1) {
    const auto bytes = static_cast<size_t>(count) * c10::elementSize(dtype);
    for (std::byte* const row : to) {
      if (row != from[0] && bytes > 0) {
        std::memcpy(row, from[0], bytes);
      }
    }
    return;
  }
  switch (dtype) {
    case torch::kFloat64: return reduce_by<double>(from, to, count, op);
    case torch::kFloat32: return reduce_by<float>(from, to, count, op);
    case torch::kBFloat16: return reduce_by<c10::BFloat16>(from, to, count, op);
    case torch::kFloat16: return reduce_by<c10::Half>(from, to, count, op);
    case torch::kInt64: return reduce_by<int64_t>(from, to, count, op);
    case torch::kInt32: return reduce_by<int32_t>(from, to, count, op);
    case torch::kInt16: return reduce_by<int16_t>(from, to, count, op);
    case torch::kInt8: return reduce_by<int8_t>(from, to, count, op);
    case torch::kBool:
    case torch::kUInt8: return reduce_by<uint8_t>(from, to, count, op);
    case torch::kComplexFloat:
      return reduce_as<std::complex<float>, Sum>(from, to, count, op == ReduceOp::kMean);
    case torch::kComplexDouble:
      return reduce_as<std::complex<double>, Sum>(from, to, count, op == ReduceOp::kMean);
    default:
      throw UsageError(
          fmt::format("{} tensors are not reduced. Convert them first.", c10::toString(dtype)));
  }
}

}  // namespace trainer
