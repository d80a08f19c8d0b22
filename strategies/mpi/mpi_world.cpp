#include <strategies/mpi/mpi_world.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <mpi.h>

#include <strategies/comm/cores.h>
#include <strategies/comm/launcher.h>
#include <strategies/comm/watch.h>
#include <strategies/mpi/mpi_library.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>
#include <trainer/core/log.h>

namespace trainer {

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
  const int own = mpi::exit_status();
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
                            : std::make_unique<Watch>(options, address);
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
