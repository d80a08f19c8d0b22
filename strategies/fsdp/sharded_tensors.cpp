#include <strategies/fsdp/sharded_tensors.h>

#include <algorithm>

#include <c10/util/accumulate.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

using Tensors = WholeTensors::Tensors;

/// The views of these segments in the whole, one-dimensional.
Tensors split(const torch::Tensor& whole, const std::vector<Segment>& segments) {
  Tensors parts;
  for (const auto& segment : segments) {
    parts.push_back(whole.narrow(0, segment.first, segment.count));
  }
  return parts;
}

}  // namespace

std::vector<Segment> ShardedTensors::segments_of(const torch::Tensor& parameter) const {
  const auto place = module_.place_of(parameter);
  if (!place) {
    throw UsageError(
        "FSDP: the optimizer has a parameter that the module did not have when it was sharded. "
        "Register it in the constructor or configure_model().");
  }
  const auto& layout = module_.units()[place->first]->layout();
  std::vector<Segment> segments;
  for (int rank = 0; rank < shard_.size(); ++rank) {
    const auto [first, count] = layout.segment(place->second, rank);
    segments.push_back({layout.sizes(place->second), first, count});
  }
  return segments;
}

std::vector<int64_t> ShardedTensors::sizes(const torch::Tensor& parameter) const {
  return segments_of(parameter).front().sizes;
}

/// In rounds of as many tensors as there are ranks: the segments of the first one meet at rank 0,
/// and so on, and what became of them goes back.
void ShardedTensors::change_each(const Tensors& parameters, const Tensors& tensors,
                                 const Change& change, const Take& take) const {
  const auto ranks = static_cast<size_t>(shard_.size());
  for (size_t begin = 0; begin < tensors.size(); begin += ranks) {
    const size_t end = std::min(begin + ranks, tensors.size());
    Tensors here(tensors.begin() + static_cast<int64_t>(begin),
                 tensors.begin() + static_cast<int64_t>(end));
    here.resize(ranks, tensors[begin].new_empty({0}));
    const size_t own = begin + static_cast<size_t>(shard_.rank());
    const auto segments = own < end ? segments_of(parameters[own]) : std::vector<Segment>(ranks);
    const auto& sizes = segments.front().sizes;
    auto whole = tensors[begin].new_empty(c10::multiply_integers(sizes));
    shard_.all_to_all_uneven(split(whole, segments), here);
    if (own < end) {
      whole = change(whole.view(sizes)).reshape({-1});
    }
    for (auto& segment : here) {
      segment = torch::empty_like(segment);
    }
    shard_.all_to_all_uneven(here, split(whole, segments));
    for (size_t i = begin; i < end; ++i) {
      take(i, here[i - begin]);
    }
  }
}

}  // namespace trainer
