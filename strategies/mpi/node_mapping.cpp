#include <strategies/mpi/node_mapping.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <random>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <strategies/mpi/mpi_library.h>

namespace trainer {
namespace {

constexpr const char* kFileName = "trainer";
const int64_t kMarkBytes = ::sysconf(_SC_PAGESIZE);  // before the data, which is mapped in pages

/// What a rank tells the others of its file.
struct Ticket {
  int64_t pid = 0;
  int64_t file = -1;
  uint64_t mark = 0;  // stands at the file's beginning: another host has the same numbers
  int64_t bytes = 0;
};

/// Whether this process may have files and mappings of that size: going past the limit on files is
/// a signal, not an error, and a limit on addresses is meant for what the program itself needs.
bool is_allowed(int64_t bytes) {
  rlimit files{}, addresses{};
  return ::getrlimit(RLIMIT_FSIZE, &files) == 0 && ::getrlimit(RLIMIT_AS, &addresses) == 0 &&
         files.rlim_cur >= static_cast<rlim_t>(bytes) && addresses.rlim_cur == RLIM_INFINITY;
}

Ticket make_file(int64_t bytes) {
  const bool is_wanted = bytes > 0 && is_allowed(kMarkBytes + bytes);
  Ticket ticket{::getpid(), is_wanted ? ::memfd_create(kFileName, MFD_CLOEXEC) : -1,
                (uint64_t{std::random_device()()} << 32) | std::random_device()(), bytes};
  const auto file = static_cast<int>(ticket.file);
  if (file >= 0 && (::ftruncate(file, kMarkBytes + bytes) != 0 ||
                    ::pwrite(file, &ticket.mark, sizeof(ticket.mark), 0) != sizeof(ticket.mark))) {
    ::close(file);
    ticket.file = -1;
  }
  return ticket;
}

/// Another program's file can have the same number in another container: it is not even opened.
int open_file(const Ticket& ticket) {
  const auto path = fmt::format("/proc/{}/fd/{}", ticket.pid, ticket.file);
  std::array<char, 32> target{};
  const auto length = ::readlink(path.c_str(), target.data(), target.size());
  const bool is_ours = length > 0 && std::string_view(target.data(), static_cast<size_t>(length))
                                         .starts_with(std::string("/memfd:") + kFileName);
  const int file = is_ours ? ::open(path.c_str(), O_RDWR | O_CLOEXEC) : -1;
  uint64_t mark = 0;
  if (file >= 0 && (::pread(file, &mark, sizeof(mark), 0) != sizeof(mark) || mark != ticket.mark)) {
    ::close(file);
    return -1;
  }
  return file;
}

NodeMapping map(const Ticket& ticket) {
  const int file = open_file(ticket);
  if (file < 0) {
    return {};
  }
  const auto size = static_cast<size_t>(ticket.bytes);
  void* const memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, kMarkBytes);
  ::close(file);
  if (memory == MAP_FAILED) {
    return {};
  }
  ::madvise(memory, size, MADV_DONTDUMP);  // a core dump would write every page that is not there
  return {static_cast<std::byte*>(memory), ticket.bytes};
}

}  // namespace

NodeMapping::~NodeMapping() {
  if (data_ != nullptr) {
    ::munmap(data_, static_cast<size_t>(bytes_));
  }
}

bool mpi::is_true_of_all(MPI_Comm comm, bool mine) {
  int all = mine ? 1 : 0;
  check(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm), "node memory");
  return all == 1;
}

std::vector<NodeMapping> mpi::map_files(MPI_Comm comm, int64_t bytes) {
  int size = 1;
  MPI_Comm_size(comm, &size);
  Ticket own = make_file(bytes);
  std::vector<Ticket> tickets(static_cast<size_t>(size));
  check(MPI_Allgather(&own, sizeof(own), MPI_BYTE, tickets.data(), sizeof(own), MPI_BYTE, comm),
        "node memory");
  std::vector<NodeMapping> mappings;
  bool sees_all = true;
  for (const auto& ticket : tickets) {
    mappings.push_back(ticket.bytes > 0 ? map(ticket) : NodeMapping());
    sees_all &= mappings.back().bytes() == ticket.bytes;
  }
  const bool is_there = is_true_of_all(comm, sees_all);  // everyone has opened what it opens
  if (own.file >= 0) {
    ::close(static_cast<int>(own.file));
  }
  return is_there ? std::move(mappings) : std::vector<NodeMapping>();
}

}  // namespace trainer
