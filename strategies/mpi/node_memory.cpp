#include <strategies/mpi/node_memory.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <torch/utils.h>

#include <strategies/mpi/mpi_library.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

bool is_wanted() {
  const char* const value = std::getenv("TRAINER_NODE_MEMORY");
  return value == nullptr || std::string_view(value) != "0";
}

bool is_one_node(MPI_Comm comm, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
             "NodeMemory");
  int local = 0;
  MPI_Comm_size(node, &local);
  MPI_Comm_free(&node);
  return mpi::is_true_of_all(comm, local == size);
}

}  // namespace

std::shared_ptr<NodeMemory> NodeMemory::open(MPI_Comm comm, int64_t header_bytes) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  if (size == 1 || !mpi::is_true_of_all(comm, is_wanted()) || !is_one_node(comm, size)) {
    return nullptr;
  }
  // The parts of all ranks have to find room among a process's addresses.
  constexpr int64_t kAddresses = int64_t{16} << 40;
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t memory = ::sysconf(_SC_PHYS_PAGES) * page;
  int64_t part_bytes = std::min(memory, kAddresses / size) / page * page;
  mpi::check(MPI_Allreduce(MPI_IN_PLACE, &part_bytes, 1, MPI_INT64_T, MPI_MIN, comm), "NodeMemory");

  auto parts = mpi::map_files(comm, part_bytes);
  return parts.empty() ? nullptr
                       : std::shared_ptr<NodeMemory>(new NodeMemory(
                             std::move(parts), rank, part_bytes, rank == 0 ? header_bytes : 0));
}

NodeMemory::NodeMemory(std::vector<NodeMapping> parts, int rank, int64_t part_bytes,
                       int64_t header_bytes)
    : parts_(std::move(parts)),
      rank_(rank),
      part_bytes_(part_bytes),
      page_(::sysconf(_SC_PAGESIZE)),
      process_(::getpid()) {
  const int64_t begin = in_pages(header_bytes);
  free_.emplace(begin, part_bytes - begin);
}

torch::Tensor NodeMemory::empty(at::IntArrayRef sizes, const torch::TensorOptions& options) {
  const auto element = static_cast<int64_t>(options.dtype().itemsize());
  const int64_t wanted = c10::multiply_integers(sizes) * element;
  const int64_t bytes = in_pages(std::max<int64_t>(1, wanted));
  const int64_t offset = allocate(bytes);
  const auto give_back = [memory = shared_from_this(), offset, bytes](void*) {
    memory->release(offset, bytes);
  };
  return torch::from_blob(at(rank_, offset), sizes, give_back, options);
}

std::optional<int64_t> NodeMemory::offset_of(const void* data) const {
  const auto* const part = at(rank_, 0);
  const auto* const at = static_cast<const std::byte*>(data);
  const bool is_in = !std::less<>()(at, part) && std::less<>()(at, part + part_bytes_);
  return is_in ? std::optional<int64_t>(at - part) : std::nullopt;
}

int64_t NodeMemory::allocate(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(free_.begin(), free_.end(),
                                  [&](const auto& block) { return block.second >= bytes; });
  if (found == free_.end()) {
    throw CommError(
        fmt::format("{} bytes of memory shared between ranks: this rank has {} in all. Use "
                    "more nodes, or smaller tensors.",
                    bytes, part_bytes_));
  }
  const auto [offset, size] = *found;
  free_.erase(found);
  if (size > bytes) {
    free_.emplace(offset + bytes, size - bytes);
  }
  return offset;
}

void NodeMemory::release(int64_t offset, int64_t bytes) {
  if (::getpid() != process_) {
    return;  // a fork of this process, which still needs them
  }
  // Gives the pages back to the system.
  ::madvise(at(rank_, offset), static_cast<size_t>(bytes), MADV_REMOVE);
  const std::lock_guard lock(mutex_);
  auto block = free_.emplace(offset, bytes).first;
  const auto next = std::next(block);
  if (next != free_.end() && block->first + block->second == next->first) {
    block->second += next->second;
    free_.erase(next);
  }
  if (block != free_.begin()) {
    const auto before = std::prev(block);
    if (before->first + before->second == block->first) {
      before->second += block->second;
      free_.erase(block);
    }
  }
}

}  // namespace trainer
