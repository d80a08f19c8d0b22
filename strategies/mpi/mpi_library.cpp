#include <strategies/mpi/mpi_library.h>

#include <dlfcn.h>
#include <link.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <mpi.h>

#include <strategies/comm/end_process.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer {
namespace mpi {
namespace {

std::atomic<bool> is_aborting = false;
int status_of_program = 0;

/// A variable of Open MPI, nullptr where this release has none of that name.
template <class T>
T* variable_of_mpi(const char* name) {
  void* symbol = ::dlsym(RTLD_DEFAULT, name);
  Dl_info info{};
  void* entry = nullptr;
  const bool is_variable =
      symbol != nullptr && ::dladdr1(symbol, &info, &entry, RTLD_DL_SYMENT) != 0 &&
      entry != nullptr && ELF64_ST_TYPE(static_cast<ElfW(Sym)*>(entry)->st_info) == STT_OBJECT;
  return is_variable ? static_cast<T*>(symbol) : nullptr;
}

using ShowHelp = int (*)(const char* file, const char* topic, int with_header, ...);
using ShowHelpList = int (*)(const char* file, const char* topic, int with_header, va_list);

/// Pages of Open MPI that would stand below our message of what has happened: that a rank has
/// called MPI_Abort, and that its connections are closed then.
int show_some_help(const char* file, const char* topic, int with_header, ...) {
  for (const char* left_out : {"mpi-abort", "peer hung up"}) {
    if (std::string_view(topic) == left_out) {
      return 0;
    }
  }
  const auto* show = variable_of_mpi<ShowHelpList>("opal_show_vhelp");
  va_list values;
  va_start(values, with_header);
  const int result = show != nullptr ? (*show)(file, topic, with_header, values) : 0;
  va_end(values);
  return result;
}

/// Open MPI shows its pages through this variable, for its own tools to replace. Where a release
/// has none, all of them are shown.
void leave_out_help() {
  auto* const show = variable_of_mpi<ShowHelp>("opal_show_help");
  if (show != nullptr && variable_of_mpi<ShowHelpList>("opal_show_vhelp") != nullptr) {
    *show = show_some_help;
  }
}

/// Open MPI reads /proc/sys/kernel/yama and user namespaces, but does not try the call; in a
/// container that forbids it, every large message would come with a warning.
bool can_read_memory_of_others() {
  char from = 0, to = 0;
  const iovec source{&from, 1}, target{&to, 1};
  return ::process_vm_readv(::getpid(), &target, 1, &source, 1, 0) == 1;
}

}  // namespace

void abort(int exit_code) {
  if (!is_initialized() || is_finalized()) {
    return;  // there are no others any more
  }
  if (is_aborting.exchange(true)) {
    for (;;) {  // another thread ends this process
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
  deliver_last_words();
  leave_out_help();  // in a host program, it is not done yet
  MPI_Abort(MPI_COMM_WORLD, exit_code);
}

int exit_status() { return status_of_program; }

bool is_initialized() {
  int flag = 0;
  MPI_Initialized(&flag);
  return flag != 0;
}

bool is_finalized() {
  int flag = 0;
  MPI_Finalized(&flag);
  return flag != 0;
}

void initialize() {
  if (is_finalized()) {
    throw CommError("MPI has been finalized already. Call MPI_Finalize after the last Trainer.");
  }
  if (is_initialized()) {
    return;
  }
  set_quiet_defaults();
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  leave_out_help();
  // At the very end of the program: communicators may live as long as static objects.
  ::on_exit(
      [](int exit_code, void*) {
        if (!is_finalized() && !is_aborting) {
          status_of_program = exit_code;
          MPI_Finalize();
        }
      },
      nullptr);
}

void set_quiet_defaults() {
  const std::pair<const char*, const char*> defaults[] = {
      {"btl_base_warn_component_unused", "0"},
      {"btl_openib_warn_no_device_params_found", "0"},
      {"btl_openib_warn_default_gid_prefix", "0"},
      {"btl_openib_warn_nonexistent_if", "0"},
      {"hwloc_base_mem_bind_failure_action", "silent"},
      {"mpi_warn_on_fork", "0"},
      {"opal_warn_on_missing_libcuda", "0"},
      {"shmem_mmap_enable_nfs_warning", "0"},
  };
  for (const auto& [name, value] : defaults) {
    ::setenv(fmt::format("OMPI_MCA_{}", name).c_str(), value, /*overwrite=*/0);
  }
  if (!can_read_memory_of_others()) {
    ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", /*overwrite=*/0);
  }
}

void check(int code, const std::string& what) {
  if (code == MPI_SUCCESS) {
    return;
  }
  std::string text(MPI_MAX_ERROR_STRING, '\0');
  int length = 0;
  int rank = 0, size = 1;
  MPI_Error_string(code, text.data(), &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  text.resize(static_cast<size_t>(length));
  throw CommError(fmt::format("{}: {} failed: {}", rank_name(rank, size), what, text));
}

}  // namespace mpi

}  // namespace trainer
