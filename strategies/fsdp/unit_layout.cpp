#include <strategies/fsdp/unit_layout.h>

#include <algorithm>

#include <c10/util/strides.h>

namespace trainer {
namespace {

// Parameters and slices begin at 64 bytes or more, of two-byte elements at 32: kernels are faster.
constexpr int64_t kAlignment = 16;

int64_t aligned(int64_t numel, int64_t alignment) {
  return (numel + alignment - 1) / alignment * alignment;
}

}  // namespace

UnitLayout::UnitLayout(const std::vector<torch::Tensor>& tensors, int rank, int ranks)
    : rank_(rank) {
  for (const auto& tensor : tensors) {
    const auto strides = c10::contiguous_strides(tensor.sizes());
    places_.push_back(
        {tensor.sizes().vec(), {strides.begin(), strides.end()}, numel_, tensor.numel()});
    numel_ += aligned(tensor.numel(), kAlignment);
  }
  numel_ = aligned(numel_, kAlignment * ranks);
  shard_numel_ = numel_ / ranks;
  shard_begin_ = rank * shard_numel_;
}

UnitLayout::Segment UnitLayout::segment(size_t index, int rank) const {
  const auto& place = places_[index];
  const int64_t first = std::max(rank * shard_numel_, place.begin);
  const int64_t end = std::min((rank + 1) * shard_numel_, place.begin + place.numel);
  return first < end ? Segment{first - place.begin, end - first} : Segment{};
}

torch::Tensor UnitLayout::parameter_in(const torch::Tensor& whole, size_t index) const {
  const auto& place = places_[index];
  return whole.as_strided(place.sizes, place.strides, whole.storage_offset() + place.begin);
}

torch::Tensor UnitLayout::shard_in(const torch::Tensor& whole) const {
  return whole.narrow(0, shard_begin_, shard_numel_);
}

torch::Tensor UnitLayout::segment_in(const torch::Tensor& shard, size_t index) const {
  const auto [first, count] = segment(index);
  return shard.narrow(0, count > 0 ? places_[index].begin + first - shard_begin_ : 0, count);
}

}  // namespace trainer
