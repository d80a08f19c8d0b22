#pragma once
// Memory that ranks on one node share: each has a part of its own, from which it allocates, and
// sees those of the others.
//
// A part is a file (node_mapping.h), empty and as large as the machine's memory (of very many
// ranks, their share of 16 TiB): pages are there once they are written, and go when a block is
// freed.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <mpi.h>
#include <torch/types.h>

#include <strategies/mpi/node_mapping.h>

namespace trainer {

class NodeMemory : public std::enable_shared_from_this<NodeMemory> {
 public:
  /// Of the ranks of `comm`, each of which finds the first `header_bytes` of rank 0's part zero and
  /// free for its own use. Null, on all of them, where they lie on several nodes, where
  /// mpi::map_files() cannot, for one rank alone, or with TRAINER_NODE_MEMORY=0. Collective: yes.
  static std::shared_ptr<NodeMemory> open(MPI_Comm comm, int64_t header_bytes);
  NodeMemory(const NodeMemory&) = delete;
  NodeMemory& operator=(const NodeMemory&) = delete;

  std::byte* header() const { return parts_[0].data(); }

  /// A tensor in this rank's part, not initialized; it keeps the memory. Any thread.
  torch::Tensor empty(at::IntArrayRef sizes, const torch::TensorOptions& options);

  /// Where it lies in this rank's part; nullopt where it does not.
  std::optional<int64_t> offset_of(const void* data) const;
  std::byte* at(int rank, int64_t offset) const {
    return parts_[static_cast<size_t>(rank)].data() + offset;
  }

 private:
  NodeMemory(std::vector<NodeMapping> parts, int rank, int64_t part_bytes, int64_t header_bytes);
  int64_t in_pages(int64_t bytes) const { return (bytes + page_ - 1) / page_ * page_; }
  int64_t allocate(int64_t bytes);
  void release(int64_t offset, int64_t bytes);

  const std::vector<NodeMapping> parts_;  // of each rank, as this process sees it
  const int rank_;
  const int64_t part_bytes_, page_;
  const int64_t process_;
  std::mutex mutex_;
  std::map<int64_t, int64_t> free_;  // bytes by offset, neighbors joined
};

}  // namespace trainer
