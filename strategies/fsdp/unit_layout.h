#pragma once
// Where the parameters of a unit lie in it, one after the other, and which part of each is this
// rank's: the ranks have equal slices of the whole, whatever parameters end or begin there.

#include <cstdint>
#include <vector>

#include <torch/types.h>

namespace trainer {

class UnitLayout {
 public:
  /// Of tensors in their order, for this one of `ranks`.
  UnitLayout(const std::vector<torch::Tensor>& tensors, int rank, int ranks);

  /// Elements of the whole, with padding, and of a rank's slice.
  int64_t numel() const { return numel_; }
  int64_t shard_numel() const { return shard_numel_; }

  /// Of a parameter: where this rank's elements begin in it, and how many they are.
  struct Segment {
    int64_t first = 0, count = 0;
  };
  Segment segment(size_t index) const { return segment(index, rank_); }
  /// The same of another rank.
  Segment segment(size_t index, int rank) const;

  const std::vector<int64_t>& sizes(size_t index) const { return places_[index].sizes; }
  /// Of the whole, where a parameter begins.
  int64_t begin(size_t index) const { return places_[index].begin; }

  /// Views of a one-dimensional tensor of the whole: a parameter, and this rank's slice.
  torch::Tensor parameter_in(const torch::Tensor& whole, size_t index) const;
  torch::Tensor shard_in(const torch::Tensor& whole) const;
  /// Of a slice, what belongs to a parameter: [count].
  torch::Tensor segment_in(const torch::Tensor& shard, size_t index) const;

 private:
  struct Place {
    std::vector<int64_t> sizes, strides;
    int64_t begin = 0, numel = 0;
  };

  std::vector<Place> places_;
  const int rank_;
  int64_t numel_ = 0, shard_numel_ = 0;
  int64_t shard_begin_ = 0;
};

}  // namespace trainer
