#include <strategies/mpi/mpi_world.h>

#include <dlfcn.h>
#include <link.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <mpi.h>

#include <strategies/comm/cores.h>
#include <strategies/comm/launcher.h>
#include <strategies/comm/watch.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>
#include <trainer/core/log.h>

namespace trainer {
namespace mpi {
namespace {

/// What the launcher gets to read our last words: srun drops those of a process that it ends.
constexpr auto kDelivery = std::chrono::milliseconds(100);
/// What the end of a job may take; also where a thread that hangs holds the lock of a stream.
constexpr unsigned kAlarmSeconds = 5;

std::atomic<bool> is_aborting = false;
int status_at_exit = 0;  // of this program

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
      std::this_thread::sleep_for(kDelivery);
    }
  }
  ::signal(SIGALRM, SIG_DFL);
  ::alarm(kAlarmSeconds);
  std::fflush(nullptr);
  std::this_thread::sleep_for(kDelivery);
  leave_out_help();  // in a host program, it is not done yet
  MPI_Abort(MPI_COMM_WORLD, exit_code);
}

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
          status_at_exit = exit_code;
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

/// Its own copy of the world: words never meet the messages of tensors. Lives until MPI ends,
/// whoever ends it: MPI_Finalize begins with the attributes of MPI_COMM_SELF.
struct MPIWorld::Comm {
  MPI_Comm all = MPI_COMM_NULL;
  int failure = 0;  // exit code of mark_failed()
  std::unique_ptr<Watch> watch = {};
};

namespace {

using std::chrono::steady_clock;

MPIWorld::Comm comm_of_world;  // there is one world, and its end may come after that of statics

/// What the others get to end too, once this rank has failed.
constexpr auto kGrace = std::chrono::seconds(1);
/// What it may take rank 0 to end all.
constexpr auto kEndOfAll = std::chrono::seconds(5);

/// The end of this process is none to tell of.
void leave_watch(const MPIWorld::Comm& comm) {
  if (comm.watch != nullptr) {
    comm.watch->leave();
  }
}

/// MPI_Finalize waits for all ranks. One that has failed would wait for ever for those that wait
/// for it in a collective: it ends them. Where all have come so far and one of them has failed, the
/// job ends here, with its exit code and without mpirun's words about it.
int end_together(MPI_Comm, int /*key*/, void* attribute, void*) {
  auto* const comm = static_cast<MPIWorld::Comm*>(attribute);
  const int own = mpi::status_at_exit;
  const int code = own != 0 ? own : comm->failure;
  if (const auto stage = flight::status().stage; comm->watch != nullptr && !stage.empty()) {
    comm->watch->report(
        failure_here(fmt::format("the program was ended in the middle of {}, with exit code {}. "
                                 "Throw an exception instead of calling exit().",
                                 stage, own),
                     own == 0 ? static_cast<int>(ExitCode::kUserCode) : own),
        /*is_final=*/true);
  }
  std::fflush(nullptr);  // nothing is lost where another rank ends this one
  int worst = own;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(&own, &worst, 1, MPI_INT, MPI_MAX, comm->all, &request);
  const auto deadline = steady_clock::now() + kGrace;
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done == 0) {
      if (code != 0 && steady_clock::now() > deadline) {
        leave_watch(*comm);
        mpi::abort(code);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  comm->watch.reset();
  if (worst != 0) {
    mpi::abort(worst);
  }
  return MPI_SUCCESS;
}

std::string counted(int64_t count, const char* what, const char* plural) {
  return fmt::format("{} {}", count, count == 1 ? what : plural);
}

}  // namespace

MPIWorld::MPIWorld(const Launch& launch) : comm_(&comm_of_world), launcher_(launch.launcher) {
  mpi::initialize();
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  if (launch.size != 0 && launch.size != size_) {
    throw ConfigError(
        fmt::format("{} is {}, but MPI has found {}: what has started this program is not of the "
                    "MPI that it uses. Start it with Open MPI's mpirun, or with srun --mpi=pmix.",
                    launch.size_key, launch.size, counted(size_, "process", "processes")));
  }
  mpi::check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_->all), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(comm_->all, MPI_ERRORS_RETURN);
  int key = MPI_KEYVAL_INVALID;
  mpi::check(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, end_together, &key, nullptr),
             "MPI_Comm_create_keyval");
  mpi::check(MPI_Comm_set_attr(MPI_COMM_SELF, key, comm_), "MPI_Comm_set_attr");
  find_nodes();
  share_cores();
  start_watch();
}

// MPI's end frees the communicator.
MPIWorld::~MPIWorld() = default;

void MPIWorld::find_nodes() {
  MPI_Comm node = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split_type(comm_->all, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
             "MPI_Comm_split_type");
  MPI_Comm_rank(node, &local_rank_);
  MPI_Comm_size(node, &local_size_);
  int first_rank = rank_;
  mpi::check(MPI_Bcast(&first_rank, 1, MPI_INT, 0, node), "MPI_Bcast");
  MPI_Comm_free(&node);
  // Nodes are counted in the order of their first ranks.
  std::vector<int> is_first(static_cast<size_t>(size_));
  const int own = local_rank_ == 0 ? 1 : 0;
  mpi::check(MPI_Allgather(&own, 1, MPI_INT, is_first.data(), 1, MPI_INT, comm_->all),
             "MPI_Allgather");
  num_nodes_ = std::accumulate(is_first.begin(), is_first.end(), 0);
  node_rank_ = std::accumulate(is_first.begin(), is_first.begin() + first_rank, 0);
}

void MPIWorld::share_cores() {
  const auto cores = allowed_cores();
  const std::string own = fmt::format("{} {}", node_rank_, to_string(cores));
  size_t sharers = 0, index = 0;
  const auto all = all_gather(own);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] == own) {
      index += i < static_cast<size_t>(rank_) ? 1 : 0;
      ++sharers;
    }
  }
  if (std::getenv(kLaunchedVariable) != nullptr) {
    bind_to(share_of(cores, index, sharers));
  }
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    at::set_num_threads(static_cast<int>(std::max<size_t>(1, cores.size() / sharers)));
  }
  int least = at::get_num_threads(), most = least;
  for (const auto& text : all_gather(std::to_string(least))) {
    least = std::min(least, std::stoi(text));
    most = std::max(most, std::stoi(text));
  }
  threads_ = least == most ? counted(most, "thread", "threads") + " each"
                           : fmt::format("{} to {} threads each", least, most);
  const size_t share = std::max<size_t>(1, cores.size() / sharers);
  if (static_cast<size_t>(most) > share) {
    threads_ +=
        fmt::format(", by OMP_NUM_THREADS: more than the {} of a process, which makes them slow",
                    counted(static_cast<int64_t>(share), "core", "cores"));
  }
  if (sharers > cores.size()) {
    threads_ += fmt::format(", {} processes share {}", sharers,
                            counted(static_cast<int64_t>(cores.size()), "core", "cores"));
  }
}

void MPIWorld::start_watch() {
  if (size_ == 1) {
    return;
  }
  const bool has_launcher =
      launcher_ != "host program" || std::getenv("OMPI_COMM_WORLD_RANK") != nullptr;
  const WatchOptions options{.rank = rank_,
                             .size = size_,
                             .host = host_name(),
                             .heartbeat_timeout = Watch::heartbeat_timeout(),
                             .abort = mpi::abort,
                             .launcher = has_launcher ? ::getppid() : 0};
  std::optional<LineListener> listener;
  try {
    if (rank_ == 0) {
      listener.emplace(/*is_one_node=*/num_nodes_ == 1);
    }
  } catch (const CommError& error) {
    log::warning(fmt::format("{}: failures of other ranks are noticed late.", error.what()));
  }
  const std::string address = broadcast(listener ? listener->address() : "");
  if (address.empty()) {
    return;
  }
  try {
    comm_->watch = listener ? std::make_unique<Watch>(options, std::move(*listener))
                            : std::make_unique<Watch>(options, connect_line(address));
  } catch (const CommError& error) {
    log::warning(
        fmt::format("{}. The others learn late where this rank fails, and nobody notices "
                    "where it hangs.",
                    error.what()));
  }
}

std::string MPIWorld::description() const {
  return fmt::format("{} on {} (Open MPI, {}), {}", counted(size_, "process", "processes"),
                     counted(num_nodes_, "node", "nodes"), launcher_, threads_);
}

std::string MPIWorld::broadcast(std::string text) {
  const flight::Waiting waiting(flight::begin_operation("broadcast of words"));
  auto size = static_cast<int64_t>(text.size());
  mpi::check(MPI_Bcast(&size, 1, MPI_INT64_T, 0, comm_->all), "MPI_Bcast");
  text.resize(static_cast<size_t>(size));
  mpi::check(MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, 0, comm_->all), "MPI_Bcast");
  return text;
}

std::vector<std::string> MPIWorld::all_gather(std::string text) {
  const flight::Waiting waiting(flight::begin_operation("all_gather of words"));
  const auto count = static_cast<size_t>(size_);
  std::vector<int> sizes(count), begins(count);
  const int own = static_cast<int>(text.size());
  mpi::check(MPI_Allgather(&own, 1, MPI_INT, sizes.data(), 1, MPI_INT, comm_->all),
             "MPI_Allgather");
  std::exclusive_scan(sizes.begin(), sizes.end(), begins.begin(), 0);
  std::string joined(static_cast<size_t>(begins.back() + sizes.back()), '\0');
  mpi::check(MPI_Allgatherv(text.data(), own, MPI_BYTE, joined.data(), sizes.data(), begins.data(),
                            MPI_BYTE, comm_->all),
             "MPI_Allgatherv");
  std::vector<std::string> texts;
  for (size_t i = 0; i < count; ++i) {
    texts.push_back(joined.substr(static_cast<size_t>(begins[i]), static_cast<size_t>(sizes[i])));
  }
  return texts;
}

void MPIWorld::barrier() {
  const flight::Waiting waiting(flight::begin_operation("barrier"));
  mpi::check(MPI_Barrier(comm_->all), "MPI_Barrier");
}

void MPIWorld::abort(int exit_code) {
  leave_watch(*comm_);
  mpi::abort(exit_code);
}

void MPIWorld::mark_failed(const Failure& failure) {
  comm_->failure = failure.exit_code;
  if (comm_->watch != nullptr && !flight::status().stage.empty()) {
    comm_->watch->report(failure, /*is_final=*/false);
  }
}

void MPIWorld::fail(const Failure& failure) {
  if (comm_->watch != nullptr) {
    comm_->watch->report(failure, /*is_final=*/true);
    std::this_thread::sleep_for(kEndOfAll);  // the watch ends this process meanwhile
  } else {
    log::wait_for_first_rank();
  }
  tell(failure);
  abort(failure.exit_code);
}

}  // namespace trainer
