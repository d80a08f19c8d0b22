#pragma once
// Memory that all ranks of a node see: files without a name (memfd), each made by one rank and
// mapped by all. Nothing is left behind when a process is killed, and a container's small /dev/shm
// is no limit. A fork of a process writes to the same memory, as threads do.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include <mpi.h>

namespace trainer {

/// One file as this process sees it. Its pages go back to the system when no rank maps it any more.
class NodeMapping {
 public:
  NodeMapping() = default;  ///< Empty.
  NodeMapping(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  NodeMapping(NodeMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  NodeMapping& operator=(NodeMapping&&) = delete;
  ~NodeMapping();

  /// Page-aligned, zero at first; null where it is empty.
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

namespace mpi {

bool is_true_of_all(MPI_Comm comm, bool mine);

/// The files of all ranks of `comm`, in their order, of which this rank's has `bytes` bytes; 0: it
/// makes none. None at all, on every rank, where one of them may not look into another or has a
/// limit on addresses or on the size of files. Collective: yes.
std::vector<NodeMapping> map_files(MPI_Comm comm, int64_t bytes);

}  // namespace mpi
}  // namespace trainer
