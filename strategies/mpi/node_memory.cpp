#include <strategies/mpi/node_memory.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <torch/utils.h>

#include <strategies/mpi/mpi_world.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr const char* kFileName = "trainer";

/// What a rank tells the others of its file.
struct Ticket {
  int64_t pid = 0;
  int64_t file = -1;
  uint64_t mark = 0;  // stands at the file's beginning: another host has the same numbers
};

bool is_wanted() {
  const char* const value = std::getenv("TRAINER_NODE_MEMORY");
  return value == nullptr || std::string_view(value) != "0";
}

bool is_true_of_all(MPI_Comm comm, bool mine) {
  int all = mine ? 1 : 0;
  mpi::check(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm), "NodeMemory");
  return all == 1;
}

bool is_one_node(MPI_Comm comm, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
             "NodeMemory");
  int local = 0;
  MPI_Comm_size(node, &local);
  MPI_Comm_free(&node);
  return is_true_of_all(comm, local == size);
}

/// Whether this process may have files and mappings of that size: going past the limit on files is
/// a signal, not an error, and a limit on addresses is meant for what the program itself needs.
bool is_allowed(int64_t part_bytes) {
  rlimit files{}, addresses{};
  return ::getrlimit(RLIMIT_FSIZE, &files) == 0 && ::getrlimit(RLIMIT_AS, &addresses) == 0 &&
         files.rlim_cur >= static_cast<rlim_t>(part_bytes) && addresses.rlim_cur == RLIM_INFINITY;
}

std::byte* map(int file, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  void* const memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (memory == MAP_FAILED) {
    return nullptr;
  }
  ::madvise(memory, size, MADV_DONTDUMP);  // a core dump would write every page that is not there
  return static_cast<std::byte*>(memory);
}

/// Another program's file can have the same number in another container: it is not even opened.
int open_part(const Ticket& ticket) {
  const auto path = fmt::format("/proc/{}/fd/{}", ticket.pid, ticket.file);
  std::array<char, 32> target{};
  const auto length = ::readlink(path.c_str(), target.data(), target.size());
  const bool is_part = length > 0 && std::string_view(target.data(), static_cast<size_t>(length))
                                         .starts_with(std::string("/memfd:") + kFileName);
  const int file = is_part ? ::open(path.c_str(), O_RDWR | O_CLOEXEC) : -1;
  uint64_t mark = 0;
  if (file >= 0 && (::pread(file, &mark, sizeof(mark), 0) != sizeof(mark) || mark != ticket.mark)) {
    ::close(file);
    return -1;
  }
  return file;
}

}  // namespace

std::shared_ptr<NodeMemory> NodeMemory::open(MPI_Comm comm, int64_t header_bytes) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  if (size == 1 || !is_true_of_all(comm, is_wanted()) || !is_one_node(comm, size)) {
    return nullptr;
  }
  // The parts of all ranks have to find room among a process's addresses.
  constexpr int64_t kAddresses = int64_t{16} << 40;
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t memory = ::sysconf(_SC_PHYS_PAGES) * page;
  int64_t part_bytes = std::min(memory, kAddresses / size) / page * page;
  mpi::check(MPI_Allreduce(MPI_IN_PLACE, &part_bytes, 1, MPI_INT64_T, MPI_MIN, comm), "NodeMemory");

  const int file = is_allowed(part_bytes) ? ::memfd_create(kFileName, MFD_CLOEXEC) : -1;
  Ticket own{::getpid(), file, (uint64_t{std::random_device()()} << 32) | std::random_device()()};
  if (file < 0 || ::ftruncate(file, part_bytes) != 0 ||
      ::pwrite(file, &own.mark, sizeof(own.mark), 0) != sizeof(own.mark)) {
    own.file = -1;
  }
  std::vector<Ticket> tickets(static_cast<size_t>(size));
  mpi::check(
      MPI_Allgather(&own, sizeof(own), MPI_BYTE, tickets.data(), sizeof(own), MPI_BYTE, comm),
      "NodeMemory");
  std::vector<std::byte*> parts(tickets.size());
  for (size_t r = 0; r < parts.size(); ++r) {
    const int other = open_part(tickets[r]);
    if (other >= 0) {
      parts[r] = map(other, part_bytes);
      ::close(other);
    }
  }
  const bool sees_all = std::find(parts.begin(), parts.end(), nullptr) == parts.end();
  const bool is_there = is_true_of_all(comm, sees_all);  // everyone has opened what it opens
  if (file >= 0) {
    ::close(file);
  }
  // From here on it unmaps them.
  std::shared_ptr<NodeMemory> opened(
      new NodeMemory(std::move(parts), rank, part_bytes, rank == 0 ? header_bytes : 0));
  return is_there ? opened : nullptr;
}

NodeMemory::NodeMemory(std::vector<std::byte*> parts, int rank, int64_t part_bytes,
                       int64_t header_bytes)
    : parts_(std::move(parts)),
      rank_(rank),
      part_bytes_(part_bytes),
      page_(::sysconf(_SC_PAGESIZE)),
      process_(::getpid()) {
  const int64_t begin = in_pages(kMarkBytes + header_bytes);
  free_.emplace(begin, part_bytes - begin);
}

NodeMemory::~NodeMemory() {
  for (std::byte* const part : parts_) {
    if (part != nullptr) {
      ::munmap(part, static_cast<size_t>(part_bytes_));
    }
  }
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
  const auto* const part = parts_[static_cast<size_t>(rank_)];
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
