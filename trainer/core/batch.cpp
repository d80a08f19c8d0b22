#include <trainer/core/batch.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>

namespace trainer {

Batch::Batch(std::vector<torch::Tensor> tensors, std::vector<std::string> names)
    : tensors_(std::move(tensors)) {
  if (names.empty()) {
    return;
  }
  if (names.size() != tensors_.size()) {
    throw UsageError(
        fmt::format("Batch: {} tensors but {} names. Give every tensor a name, or none.",
                    tensors_.size(), names.size()));
  }
  names_ = std::make_shared<const std::vector<std::string>>(std::move(names));
}

Batch Batch::of_parts(std::vector<Batch> parts) {
  Batch batch;
  batch.parts_ = std::move(parts);
  return batch;
}

const Batch& Batch::part(size_t index) const {
  if (index >= parts_.size()) {
    throw UsageError(
        parts_.empty()
            ? fmt::format("Batch: no part {}; this batch comes from one loader, not from a "
                          "CombinedLoader.",
                          index)
            : fmt::format("Batch: no part {}; the batch has {}, counted from 0.", index,
                          parts_.size()));
  }
  return parts_[index];
}

const torch::Tensor& Batch::operator[](size_t index) const {
  if (index >= tensors_.size()) {
    throw UsageError(fmt::format("Batch: no tensor {}; the batch holds {} (0 to {}).", index,
                                 tensors_.size(), static_cast<int64_t>(tensors_.size()) - 1));
  }
  return tensors_[index];
}

const torch::Tensor& Batch::operator[](std::string_view name) const {
  const auto& all = names();
  const auto found = std::find(all.begin(), all.end(), name);
  if (found == all.end()) {
    throw UsageError(
        all.empty()
            ? fmt::format("Batch: no tensor named '{}'; this data set gives no names, use "
                          "batch[0] or batch.unpack<{}>().",
                          name, tensors_.size())
            : fmt::format("Batch: no tensor named '{}'. It has: {}.", name, fmt::join(all, ", ")));
  }
  return tensors_[static_cast<size_t>(found - all.begin())];
}

int64_t Batch::size() const {
  if (tensors_.empty()) {
    int64_t sum = 0;
    for (const auto& part : parts_) {
      sum += part.size();
    }
    return sum;
  }
  return tensors_.front().dim() == 0 ? 1 : tensors_.front().size(0);
}

const std::vector<std::string>& Batch::names() const {
  static const std::vector<std::string> kNone;
  return names_ ? *names_ : kNone;
}

Batch Batch::to(torch::Device device) && {
  for (auto& tensor : tensors_) {
    if (tensor.device() != device) {  // else not even a trip through the dispatcher
      tensor = tensor.to(device, /*non_blocking=*/true);
    }
  }
  for (auto& part : parts_) {
    part = std::move(part).to(device);
  }
  return std::move(*this);
}

Batch Batch::to(torch::ScalarType dtype) && {
  for (auto& tensor : tensors_) {
    if (tensor.is_floating_point()) {
      tensor = tensor.to(dtype);
    }
  }
  for (auto& part : parts_) {
    part = std::move(part).to(dtype);
  }
  return std::move(*this);
}

void Batch::throw_wrong_count(size_t expected) const {
  if (!parts_.empty()) {
    throw UsageError(fmt::format(
        "Batch: unpack<{}>() on a batch of {} parts. Unpack its parts: batch.part(0).unpack<{}>().",
        expected, parts_.size(), expected));
  }
  throw UsageError(fmt::format(
      "Batch: unpack<{}>() on a batch of {} tensors. Unpack as many as the data set yields.",
      expected, tensors_.size()));
}

}  // namespace trainer
