#include <strategies/comm/device_mesh.h>

#include <cstddef>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

std::string describe(const DeviceMesh::Axes& axes) {
  std::string text;
  for (const auto& [name, size] : axes) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", name, size);
  }
  return "{" + text + "}";
}

}  // namespace

void DeviceMesh::check(const Axes& axes, int num_ranks) {
  int64_t product = 1;
  bool is_empty = false;
  for (const auto& [name, size] : axes) {
    is_empty |= size < 1;
    product *= size;
  }
  if (is_empty || product != num_ranks) {
    throw ConfigError(
        fmt::format("a mesh of {} does not hold the {} ranks that there are. Choose sizes of 1 or "
                    "more whose product is their number.",
                    describe(axes), num_ranks));
  }
}

DeviceMesh::DeviceMesh(Communicator& all, Axes axes) : axes_(std::move(axes)) {
  check(axes_, all.size());
  int stride = all.size();
  for (const auto& [name, size] : axes_) {
    stride /= size;
    const int place = all.rank() / stride % size;
    lines_.push_back(all.split(/*color=*/all.rank() - place * stride));
  }
}

Communicator& DeviceMesh::axis(const std::string& name) const {
  for (size_t i = 0; i < axes_.size(); ++i) {
    if (axes_[i].first == name) {
      return *lines_[i];
    }
  }
  throw UsageError(fmt::format("a mesh of {} has no axis '{}'.", describe(axes_), name));
}

}  // namespace trainer
