#include <strategies/comm/mpi_world.h>

#include <cstdint>
#include <cstdlib>
#include <numeric>

#include <fmt/format.h>
#include <mpi.h>

#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer {
namespace mpi {
namespace {

/// Ends what initialize() has started. At the very end of the program: communicators may live as
/// long as static objects.
void finalize() {
  if (!is_finalized()) {
    MPI_Finalize();
  }
}

}  // namespace

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
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  std::atexit(finalize);
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
  throw CommError(
      fmt::format("rank {}/{} ({}): {} failed: {}", rank, size, host_name(), what, text));
}

}  // namespace mpi

/// Its own copy of the world: words never meet the messages of tensors.
struct MPIWorld::Comm {
  MPI_Comm all = MPI_COMM_NULL;
};

MPIWorld::MPIWorld() : comm_(std::make_unique<Comm>()) {
  mpi::initialize();
  mpi::check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_->all), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(comm_->all, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm_->all, &rank_);
  MPI_Comm_size(comm_->all, &size_);
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

MPIWorld::~MPIWorld() {
  if (!mpi::is_finalized()) {
    MPI_Comm_free(&comm_->all);
  }
}

std::string MPIWorld::broadcast(std::string text) {
  auto size = static_cast<int64_t>(text.size());
  mpi::check(MPI_Bcast(&size, 1, MPI_INT64_T, 0, comm_->all), "MPI_Bcast");
  text.resize(static_cast<size_t>(size));
  mpi::check(MPI_Bcast(text.data(), static_cast<int>(size), MPI_BYTE, 0, comm_->all), "MPI_Bcast");
  return text;
}

std::vector<std::string> MPIWorld::all_gather(std::string text) {
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

void MPIWorld::barrier() { mpi::check(MPI_Barrier(comm_->all), "MPI_Barrier"); }

void MPIWorld::abort(int exit_code) { MPI_Abort(MPI_COMM_WORLD, exit_code); }

}  // namespace trainer
