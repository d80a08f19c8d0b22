#include <trainer/data/dataset.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <typeinfo>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <c10/util/DimVector.h>
#include <c10/util/Type.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>
#include <trainer/data/sampler.h>
#include <trainer/data/stack.h>

namespace trainer {
namespace {

std::string class_name(const Dataset& dataset) { return c10::demangle(typeid(dataset).name()); }

void check_index(std::string_view what, int64_t index, int64_t size) {
  if (index < 0 || index >= size) {
    throw UsageError(
        fmt::format("{}: no sample {}; it has {}, counted from 0.", what, index, size));
  }
}

/// Copies rows of `row_bytes` bytes; neighbours that stay neighbours go in one copy.
void copy_rows(const std::byte* from, size_t row_bytes, std::span<const int64_t> indices,
               std::byte* to) {
  if (row_bytes == 0) {
    return;
  }
  for (size_t i = 0; i < indices.size();) {
    size_t run = 1;
    while (i + run < indices.size() && indices[i + run] == indices[i + run - 1] + 1) {
      ++run;
    }
    std::memcpy(to, from + static_cast<size_t>(indices[i]) * row_bytes, run * row_bytes);
    to += run * row_bytes;
    i += run;
  }
}

}  // namespace

Batch Dataset::get(int64_t) const {
  throw UsageError(fmt::format("{0}: has no get(). Override get() in {0}, or fetch by get_batch().",
                               class_name(*this)));
}

Batch Dataset::get_batch(std::span<const int64_t> indices) const {
  if (indices.empty()) {
    throw UsageError(fmt::format("{}: get_batch() of no samples.", class_name(*this)));
  }
  std::vector<Batch> samples;
  samples.reserve(indices.size());
  for (const int64_t index : indices) {
    samples.push_back(get(index));
  }
  return stack(samples, indices);
}

Batch Dataset::stack(const std::vector<Batch>& samples, std::span<const int64_t> indices) const {
  for (size_t i = 1; i < samples.size(); ++i) {
    if (!same_form(samples[i], samples.front())) {
      throw UsageError(fmt::format(
          "{}: sample {} does not stack with sample {}: {} against {}.\n  Make all samples alike "
          "in get(), or override get_batch() to pad them.",
          class_name(*this), indices[i], indices.front(), form(samples[i]), form(samples.front())));
    }
  }
  return stack_samples(samples);
}

TensorDataset::TensorDataset(std::vector<torch::Tensor> tensors, std::vector<std::string> names)
    : tensors_(std::move(tensors)), names_(std::move(names)) {
  if (!names_.empty() && names_.size() != tensors_.size()) {
    throw UsageError(
        fmt::format("TensorDataset: {} tensors but {} names. Give every tensor a name, or none.",
                    tensors_.size(), names_.size()));
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto& tensor = tensors_[i];
    if (!tensor.defined() || tensor.layout() != torch::kStrided || tensor.is_quantized()) {
      throw DataError(fmt::format("TensorDataset: tensor {} is {}. Give dense tensors.", i,
                                  tensor.defined() ? tensor.toString() : "undefined"));
    }
    if (tensor.dim() == 0 || tensor.size(0) != tensors_.front().size(0)) {
      throw DataError(fmt::format(
          "TensorDataset: tensor {} has shape [{}], tensor 0 [{}]. The first dimension is the "
          "sample and has to be the same for all.",
          i, fmt::join(tensor.sizes(), ", "), fmt::join(tensors_.front().sizes(), ", ")));
    }
    tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous();
  }
  if (tensors_.empty()) {
    throw DataError("TensorDataset: no tensors. Give at least one, [samples, ...].");
  }
  size_ = tensors_.front().size(0);
  if (size_ == 0) {
    throw DataError(
        fmt::format("TensorDataset: tensor 0 has shape [{}]: no samples, which the first dimension "
                    "counts.\n  Look at what the tensors were read from or selected by.",
                    fmt::join(tensors_.front().sizes(), ", ")));
  }
}

Batch TensorDataset::get(int64_t index) const { return gather({&index, 1}, 1); }

Batch TensorDataset::get_batch(std::span<const int64_t> indices) const {
  return gather(indices, 0);
}

/// The rows at `indices`, in a tensor of their own without the first `first_dim` of the dimensions
/// [indices.size(), ...]. Goes past the dispatcher, which takes longer than copying a small batch.
Batch TensorDataset::gather(std::span<const int64_t> indices, size_t first_dim) const {
  for (const int64_t index : indices) {
    check_index("TensorDataset", index, size_);
  }
  std::vector<torch::Tensor> gathered;
  gathered.reserve(tensors_.size());
  for (const auto& tensor : tensors_) {
    c10::DimVector sizes(tensor.sizes());
    sizes[0] = static_cast<int64_t>(indices.size());
    torch::Tensor rows(
        at::detail::empty_cpu(torch::IntArrayRef(sizes).slice(first_dim), tensor.scalar_type()));
    copy_rows(static_cast<const std::byte*>(tensor.const_data_ptr()),
              tensor.nbytes() / static_cast<size_t>(size_), indices,
              static_cast<std::byte*>(rows.mutable_data_ptr()));
    gathered.push_back(std::move(rows));
  }
  return Batch(std::move(gathered), names_);
}

Subset::Subset(std::shared_ptr<const Dataset> dataset, std::vector<int64_t> indices)
    : dataset_(std::move(dataset)), indices_(std::move(indices)) {
  if (!dataset_) {
    throw UsageError("Subset: the data set is null.");
  }
  const std::string name = class_name(*dataset_);
  const int64_t size = dataset_->size();
  for (const int64_t index : indices_) {
    check_index(name, index, size);
  }
}

int64_t Subset::mapped(int64_t index) const {
  check_index("Subset", index, size());
  return indices_[static_cast<size_t>(index)];
}

std::vector<int64_t> Subset::mapped(std::span<const int64_t> indices) const {
  std::vector<int64_t> result(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) {
    result[i] = mapped(indices[i]);
  }
  return result;
}

Batch Subset::get(int64_t index) const { return dataset_->get(mapped(index)); }

Batch Subset::get_batch(std::span<const int64_t> indices) const {
  return dataset_->get_batch(mapped(indices));
}

Batch Subset::get_in_epoch(int64_t index, int64_t epoch) const {
  return dataset_->get_in_epoch(mapped(index), epoch);
}

Batch Subset::get_batch_in_epoch(std::span<const int64_t> indices, int64_t epoch) const {
  return dataset_->get_batch_in_epoch(mapped(indices), epoch);
}

TransformedDataset::TransformedDataset(std::shared_ptr<const Dataset> dataset, Transform transform,
                                       std::optional<uint64_t> seed)
    : dataset_(std::move(dataset)), transform_(std::move(transform)), seed_(seed) {
  if (!dataset_ || !transform_) {
    throw UsageError(
        fmt::format("TransformedDataset: the {} is null.", dataset_ ? "function" : "data set"));
  }
}

Batch TransformedDataset::transformed(int64_t index, int64_t epoch,
                                      torch::Generator& generator) const {
  generator.set_current_seed(derive_seed(
      seed_.value_or(global_seed()), static_cast<uint64_t>(epoch), static_cast<uint64_t>(index)));
  return transform_(dataset_->get_in_epoch(index, epoch), generator);
}

Batch TransformedDataset::get_in_epoch(int64_t index, int64_t epoch) const {
  auto generator = at::detail::createCPUGenerator();
  return transformed(index, epoch, generator);
}

Batch TransformedDataset::get_batch_in_epoch(std::span<const int64_t> indices,
                                             int64_t epoch) const {
  if (indices.empty()) {
    throw UsageError("TransformedDataset: get_batch() of no samples.");
  }
  auto generator = at::detail::createCPUGenerator();  // one for all: it is seeded for each
  std::vector<Batch> samples;
  samples.reserve(indices.size());
  for (const int64_t index : indices) {
    samples.push_back(transformed(index, epoch, generator));
  }
  return stack(samples, indices);
}

std::vector<std::shared_ptr<Subset>> random_split(std::shared_ptr<const Dataset> dataset,
                                                  const std::vector<double>& fractions,
                                                  uint64_t seed) {
  if (!dataset) {
    throw UsageError("random_split: the data set is null.");
  }
  double sum = 0;
  bool positive = true;
  for (const double fraction : fractions) {
    positive = positive && fraction > 0;
    sum += fraction;
  }
  if (!positive || !(std::abs(sum - 1) < 1e-6)) {
    throw UsageError(fmt::format(
        "random_split: fractions {} add up to {:.6g}; they have to be above 0 and add up "
        "to 1.",
        fractions, sum));
  }
  const int64_t size = dataset->size();
  if (size < static_cast<int64_t>(fractions.size())) {
    throw DataError(
        fmt::format("random_split: {} has size {}, too few samples for {} parts. Give it more "
                    "samples, or ask for fewer parts.",
                    class_name(*dataset), size, fractions.size()));
  }
  const Permutation order(size, seed);
  std::vector<std::shared_ptr<Subset>> parts;
  int64_t position = 0;
  double end = 0;
  for (const double fraction : fractions) {
    end += fraction;
    // The ends are rounded, not the lengths: so the parts cover everything once.
    const bool is_last = parts.size() + 1 == fractions.size();
    const int64_t stop =
        is_last ? size : std::min<int64_t>(size, std::llround(end * static_cast<double>(size)));
    if (stop <= position) {
      throw DataError(fmt::format(
          "random_split: part {} would be empty: {} of the {} samples of {}. Give it a larger "
          "fraction (one sample is {:.2g}), or more samples.",
          parts.size(), fraction, size, class_name(*dataset), 1 / static_cast<double>(size)));
    }
    std::vector<int64_t> indices;
    indices.reserve(static_cast<size_t>(stop - position));
    for (; position < stop; ++position) {
      indices.push_back(order[position]);
    }
    parts.push_back(std::make_shared<Subset>(dataset, std::move(indices)));
  }
  return parts;
}

}  // namespace trainer
