#include <strategies/mpi/mpi_engine.h>

#include <algorithm>
#include <thread>
#include <utility>

#include <torch/utils.h>

#include <strategies/mpi/mpi_library.h>

namespace trainer {

MPIOperation::MPIOperation(std::shared_ptr<MPIEngine> engine, Collective collective)
    : engine_(std::move(engine)), what_(std::move(collective)) {
  const torch::NoGradGuard no_grad;
  // What is received is written past autograd.
  what_.output = what_.output.detach().view({-1});
  length_ = what_.output.numel();
  if (what_.input.defined()) {
    what_.input = what_.input.detach().view({-1});
    length_ = std::min(length_, what_.input.numel());
  }
  if (what_.kind == Collective::Kind::kAllToAll) {
    length_ /= engine_->size;
  }
}

bool MPIOperation::is_done() {
  if (!done_) {
    engine_->advance(/*is_waiting=*/false);
  }
  return done_;
}

void MPIOperation::wait() {
  for (int i = 0; !done_; ++i) {
    engine_->advance(/*is_waiting=*/true);
    if (!done_) {
      engine_->relax(i);
    }
  }
}

int64_t MPIOperation::piece_length(int64_t bytes) const {
  return std::max<int64_t>(
      1, bytes / (is_one_part() ? 1 : engine_->size) / what_.output.element_size());
}

MPIOperation::Range MPIOperation::slice_of(int64_t count, int r) const {
  const int64_t each = (count + engine_->size - 1) / engine_->size;
  const int64_t begin = std::min(count, r * each);
  return {begin, std::min(each, count - begin)};
}

MPIEngine::MPIEngine(MPI_Comm parent, bool is_owned) {
  mpi::check(MPI_Comm_dup(parent, &blocking), "MPI_Comm_dup");
  mpi::check(MPI_Comm_dup(parent, &async), "MPI_Comm_dup");
  if (is_owned) {
    MPI_Comm_free(&parent);
  }
  MPI_Comm_set_errhandler(blocking, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(async, MPI_ERRORS_RETURN);
  MPI_Comm_rank(blocking, &rank);
  MPI_Comm_size(blocking, &size);
  rendezvous = Rendezvous::open(blocking);
}

MPIEngine::~MPIEngine() {
  if (!mpi::is_finalized()) {
    MPI_Comm_free(&blocking);
    MPI_Comm_free(&async);
  }
}

bool MPIEngine::advance(bool is_waiting) {
  for (size_t i = 0; i < queue.size();) {
    const bool is_at_end = queue[i]->advance(/*is_first=*/i == 0, is_waiting);
    if (is_at_end && i == 0) {
      queue.pop_front();
    } else if (is_at_end || queue[i]->lets_others_pass()) {
      ++i;
    } else {
      break;
    }
  }
  if (rendezvous != nullptr) {
    rendezvous->leave_before(queue.empty() ? rendezvous->next_ticket() : queue.front()->ticket());
  }
  return !queue.empty();
}

void MPIEngine::drain() {
  for (int i = 0; advance(/*is_waiting=*/true); ++i) {
    relax(i);
  }
}

void MPIEngine::relax(int turn) const {
  constexpr int kSpins = 1000;  // while the others are near: a tenth of a millisecond
  if (turn > kSpins) {
    int is_there = 0;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, async, &is_there, MPI_STATUS_IGNORE);
    std::this_thread::yield();
  }
}

MPI_Status MPIEngine::wait(MPI_Request& request, const std::string& what) {
  MPI_Status status;
  for (int is_done = 0; is_done == 0;) {
    advance(/*is_waiting=*/true);
    mpi::check(MPI_Test(&request, &is_done, &status), what);
  }
  return status;
}

const torch::Tensor& MPIEngine::scratch(int64_t bytes) {
  if (!scratch_.defined() || scratch_.numel() < bytes) {
    scratch_ = torch::empty({bytes}, torch::kUInt8);
  }
  return scratch_;
}

}  // namespace trainer
