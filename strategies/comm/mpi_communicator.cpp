#include <strategies/comm/mpi_communicator.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <optional>
#include <thread>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/record_function.h>
#include <fmt/format.h>
#include <mpi.h>
#include <torch/utils.h>

#include <strategies/comm/mpi_world.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

// Pieces that stay in the caches between being received and being added.
constexpr int64_t kBlockingPieceBytes = int64_t{2} << 20;
constexpr int64_t kAsyncPieceBytes = int64_t{4} << 20;
// Where two rounds of messages cost more than sending everything to everyone.
constexpr int64_t kOneRoundBytes = int64_t{16} << 10;
constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;  // MPI counts in int

enum Tag { kFirstRound, kSecondRound, kPeer };

/// What MPI reduces itself, in the dtype at hand.
std::optional<MPI_Datatype> reducible(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat64: return MPI_DOUBLE;
    case torch::kFloat32: return MPI_FLOAT;
    case torch::kInt64: return MPI_INT64_T;
    case torch::kInt32: return MPI_INT32_T;
    case torch::kInt16: return MPI_INT16_T;
    case torch::kInt8: return MPI_INT8_T;
    case torch::kUInt8: return MPI_UINT8_T;
    case torch::kComplexFloat: return MPI_C_FLOAT_COMPLEX;
    case torch::kComplexDouble: return MPI_C_DOUBLE_COMPLEX;
    default: return std::nullopt;
  }
}

/// MPI_MIN and MPI_MAX of floating-point numbers lose NaN.
std::optional<MPI_Op> own_op(torch::ScalarType dtype, ReduceOp op) {
  const bool is_integer = c10::isIntegralType(dtype, /*includeBool=*/false);
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMean: return MPI_SUM;
    case ReduceOp::kProduct: return MPI_PROD;
    case ReduceOp::kMin: return is_integer ? std::optional(MPI_MIN) : std::nullopt;
    case ReduceOp::kMax: return is_integer ? std::optional(MPI_MAX) : std::nullopt;
  }
  return std::nullopt;
}

std::byte* bytes_of(const torch::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

void merge(const torch::Tensor& into, const torch::Tensor& from, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMean: into.add_(from); break;
    case ReduceOp::kProduct: into.mul_(from); break;
    case ReduceOp::kMin: at::minimum_out(const_cast<torch::Tensor&>(into), into, from); break;
    case ReduceOp::kMax: at::maximum_out(const_cast<torch::Tensor&>(into), into, from); break;
  }
}

bool is_short_float(torch::ScalarType dtype) {
  return dtype == torch::kBFloat16 || dtype == torch::kFloat16;
}

/// Reduces `rows`, one of each rank, in the order of the ranks into `output`, which may be this
/// rank's row. Short formats are reduced in float32 and rounded once. The rows of other ranks are
/// scratch memory.
void reduce_rows(const std::vector<torch::Tensor>& rows, int rank, const torch::Tensor& output,
                 ReduceOp op) {
  const bool widens = is_short_float(output.scalar_type());
  torch::Tensor sum;
  size_t next = 1;
  if (widens) {
    sum = rows[0].to(torch::kFloat32);
  } else if (rows.size() == 2 && output.data_ptr() == rows[1].data_ptr()) {
    sum = rows[1];  // two numbers may be added in either order: without a copy
    merge(sum, rows[0], op);
    next = 2;
  } else if (rank == 0) {
    sum = output;  // what the caller gave is not scratch memory
    if (output.data_ptr() != rows[0].data_ptr()) {
      output.copy_(rows[0]);
    }
  } else {
    sum = rows[0];
  }
  for (; next < rows.size(); ++next) {
    merge(sum, widens ? rows[next].to(torch::kFloat32) : rows[next], op);
  }
  if (op == ReduceOp::kMean) {
    sum.div_(static_cast<double>(rows.size()));
  }
  if (sum.data_ptr() != output.data_ptr()) {
    output.copy_(sum);
  }
}

}  // namespace

/// What the communicator and the operations under way share. They may outlive it.
class MPICommunicator::Engine {
 public:
  explicit Engine(MPI_Comm parent, bool is_owned) {
    mpi::check(MPI_Comm_dup(parent, &blocking), "MPI_Comm_dup");
    mpi::check(MPI_Comm_dup(parent, &async), "MPI_Comm_dup");
    if (is_owned) {
      MPI_Comm_free(&parent);
    }
    MPI_Comm_set_errhandler(blocking, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(async, MPI_ERRORS_RETURN);
    MPI_Comm_rank(blocking, &rank);
    MPI_Comm_size(blocking, &size);
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine();

  void drain();
  bool advance();
  MPI_Status wait(MPI_Request& request, const std::string& what);
  const torch::Tensor& scratch(int64_t bytes);

  MPI_Comm blocking = MPI_COMM_NULL;  // MPI's collectives
  MPI_Comm async = MPI_COMM_NULL;     // messages of operations under way
  int rank = 0, size = 1;
  std::deque<std::shared_ptr<Operation>> queue;  // the first one runs

 private:
  torch::Tensor scratch_;  // of the operation that runs
};

/// A collective as rounds of messages, piece by piece: each piece of a reduction is first sent to
/// the ranks that sum its parts, then the sums to everyone.
class MPICommunicator::Operation : public Work::State {
 public:
  Operation(std::shared_ptr<Engine> engine, Collective collective)
      : engine_(std::move(engine)), what_(std::move(collective)) {
    const torch::NoGradGuard no_grad;
    // Flat, and without a graph: what is received is written past autograd.
    what_.output = what_.output.detach().view({-1});
    if (what_.input.defined()) {
      what_.input = what_.input.detach().view({-1});
    }
    const int64_t whole = what_.input.defined()
                              ? std::min(what_.input.numel(), what_.output.numel())
                              : what_.output.numel();
    length_ = what_.kind == Kind::kAllToAll ? whole / engine_->size : whole;
    const int64_t element = what_.output.element_size();
    const bool divides = what_.kind == Kind::kAllReduce || what_.kind == Kind::kBroadcast;
    const int64_t bytes = divides ? kAsyncPieceBytes : kAsyncPieceBytes / engine_->size;
    piece_ = std::max<int64_t>(1, bytes / element);
  }

  bool is_done() override {
    if (!done_) {
      engine_->advance();
    }
    return done_;
  }
  void wait() override {
    constexpr int kSpins = 1000;  // while the others are near: a tenth of a millisecond
    for (int i = 0; !done_; ++i) {
      engine_->advance();
      if (i > kSpins) {
        std::this_thread::yield();  // where cores are short, another rank may need this one
      }
    }
  }

  /// Goes as far as it can without waiting; true when it has come to its end.
  bool advance() {
    const at::AutoDispatchBelowADInplaceOrView without_autograd;
    while (!done_) {
      if (!round_is_open_) {
        if (begin_ >= length_ || engine_->size == 1) {
          finish_alone();
          done_ = true;
          break;
        }
        open_round();
      }
      int arrived = 0;
      check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &arrived,
                        MPI_STATUSES_IGNORE));
      if (arrived == 0) {
        return false;
      }
      close_round();
    }
    return true;
  }

 private:
  void check(int code) const { mpi::check(code, what_.describe()); }

  /// One rank's part of a tensor of equal parts: the piece at hand of it.
  torch::Tensor part(const torch::Tensor& tensor, int r) const {
    return tensor.narrow(0, r * length_ + begin_, count());
  }
  int64_t count() const { return std::min(piece_, length_ - begin_); }
  /// The slice of the piece at hand that rank `r` reduces.
  torch::Tensor slice(int r) const {
    const int64_t per = (count() + engine_->size - 1) / engine_->size;
    const int64_t begin = std::min(count(), r * per);
    return what_.output.narrow(0, begin_ + begin, std::min(per, count() - begin));
  }
  /// Whether everyone gets everything in one round and reduces it all.
  bool is_one_round() const {
    return what_.output.element_size() * count() * (engine_->size - 1) <= kOneRoundBytes;
  }

  void receive(const torch::Tensor& into, int from, Tag tag) {
    check(MPI_Irecv(into.data_ptr(), static_cast<int>(into.nbytes()), MPI_BYTE, from, tag,
                    engine_->async, &requests_.emplace_back()));
  }
  void send(const torch::Tensor& tensor, int to, Tag tag) {
    check(MPI_Isend(tensor.data_ptr(), static_cast<int>(tensor.nbytes()), MPI_BYTE, to, tag,
                    engine_->async, &requests_.emplace_back()));
  }
  template <class F>
  void for_each_peer(const F& action) const {
    for (int i = 1; i < engine_->size; ++i) {
      action((engine_->rank + i) % engine_->size);  // not all to the same rank first
    }
  }

  /// Receives of every other rank a row like `own`, to be reduced with it.
  void receive_rows(const torch::Tensor& own) {
    const int64_t bytes = static_cast<int64_t>(own.nbytes());
    const auto memory = engine_->scratch(bytes * engine_->size);
    rows_.assign(static_cast<size_t>(engine_->size), own);
    for_each_peer([&](int r) {
      auto& row = rows_[static_cast<size_t>(r)];
      row = torch::from_blob(bytes_of(memory) + bytes * r, own.sizes(), own.options());
      receive(row, r, kFirstRound);
    });
  }

  void open_round() {
    RECORD_FUNCTION("trainer::send",
                    c10::ArrayRef<const c10::IValue>{});  // for LibTorch's profiler
    const int own = engine_->rank;
    switch (what_.kind) {
      case Kind::kAllReduce:
        if (is_second_round_) {
          for_each_peer([&](int r) { receive(slice(r), r, kSecondRound); });
          for_each_peer([&](int r) { send(slice(own), r, kSecondRound); });
        } else if (is_one_round()) {
          const auto whole = what_.output.narrow(0, begin_, count());
          receive_rows(whole);
          for_each_peer([&](int r) { send(whole, r, kFirstRound); });
        } else {
          receive_rows(slice(own));
          for_each_peer([&](int r) { send(slice(r), r, kFirstRound); });
        }
        break;
      case Kind::kReduceScatter:
        receive_rows(part(what_.input, own));
        for_each_peer([&](int r) { send(part(what_.input, r), r, kFirstRound); });
        break;
      case Kind::kAllGather: {
        const auto piece = what_.input.narrow(0, begin_, count());
        for_each_peer([&](int r) { receive(part(what_.output, r), r, kFirstRound); });
        for_each_peer([&](int r) { send(piece, r, kFirstRound); });
        break;
      }
      case Kind::kBroadcast: {
        const auto piece = what_.output.narrow(0, begin_, count());
        if (own != what_.root) {
          receive(piece, what_.root, kFirstRound);
        } else {
          for_each_peer([&](int r) { send(piece, r, kFirstRound); });
        }
        break;
      }
      case Kind::kAllToAll:
        for_each_peer([&](int r) { receive(part(what_.output, r), r, kFirstRound); });
        for_each_peer([&](int r) { send(part(what_.input, r), r, kFirstRound); });
        break;
    }
    round_is_open_ = true;
  }

  void close_round() {
    RECORD_FUNCTION("trainer::reduce", c10::ArrayRef<const c10::IValue>{});
    requests_.clear();
    round_is_open_ = false;
    if (what_.kind == Kind::kAllReduce && !is_second_round_) {
      const bool is_whole = is_one_round();
      reduce_rows(rows_, engine_->rank,
                  is_whole ? what_.output.narrow(0, begin_, count()) : slice(engine_->rank),
                  what_.op);
      is_second_round_ = !is_whole;
      if (is_second_round_) {
        return;
      }
    } else if (what_.kind == Kind::kReduceScatter) {
      reduce_rows(rows_, engine_->rank, what_.output.narrow(0, begin_, count()), what_.op);
    }
    is_second_round_ = false;
    begin_ += count();
  }

  /// This rank's own part, which no message brings.
  void finish_alone() {
    const int own = engine_->rank;
    if (what_.kind == Kind::kAllGather || what_.kind == Kind::kAllToAll) {
      const auto from = what_.kind == Kind::kAllGather
                            ? what_.input
                            : what_.input.narrow(0, own * length_, length_);
      const auto to = what_.output.narrow(0, own * length_, length_);
      if (to.numel() > 0 && to.data_ptr() != from.data_ptr()) {
        to.copy_(from);
      }
    } else if (what_.kind == Kind::kReduceScatter && engine_->size == 1) {
      what_.output.copy_(what_.input);
    }
    rows_.clear();
  }

  std::shared_ptr<Engine> engine_;
  Collective what_;
  int64_t length_ = 0;  // elements to go through, of one rank's part where there are parts
  int64_t piece_ = 0;   // elements at a time
  int64_t begin_ = 0;   // of the piece at hand
  bool is_second_round_ = false;
  bool round_is_open_ = false;
  bool done_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<torch::Tensor> rows_;
};

MPICommunicator::Engine::~Engine() {
  if (!mpi::is_finalized()) {
    MPI_Comm_free(&blocking);
    MPI_Comm_free(&async);
  }
}

/// Carries on with what was started; false when nothing is left.
bool MPICommunicator::Engine::advance() {
  while (!queue.empty()) {
    if (!queue.front()->advance()) {
      return true;
    }
    queue.pop_front();
  }
  return false;
}

void MPICommunicator::Engine::drain() {
  while (advance()) {
  }
}

/// While what was started goes on: the rank at the other end may wait for that first.
MPI_Status MPICommunicator::Engine::wait(MPI_Request& request, const std::string& what) {
  MPI_Status status;
  for (int is_done = 0; is_done == 0;) {
    advance();
    mpi::check(MPI_Test(&request, &is_done, &status), what);
  }
  return status;
}

/// Memory for messages, kept from one operation to the next.
const torch::Tensor& MPICommunicator::Engine::scratch(int64_t bytes) {
  if (!scratch_.defined() || scratch_.numel() < bytes) {
    scratch_ = torch::empty({bytes}, torch::kUInt8);
  }
  return scratch_;
}

MPICommunicator::MPICommunicator(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

std::unique_ptr<MPICommunicator> MPICommunicator::world() {
  mpi::initialize();
  return std::unique_ptr<MPICommunicator>(
      new MPICommunicator(std::make_shared<Engine>(MPI_COMM_WORLD, /*is_owned=*/false)));
}

MPICommunicator::~MPICommunicator() {
  if (!engine_->queue.empty()) {
    // An error ended the work on them: MPI may still write to their tensors, which stay for ever.
    (void)new std::deque<std::shared_ptr<Operation>>(std::move(engine_->queue));
  }
}

int MPICommunicator::rank() const { return engine_->rank; }
int MPICommunicator::size() const { return engine_->size; }
void MPICommunicator::poll() { engine_->advance(); }

Work MPICommunicator::start(const Collective& collective) {
  auto operation = std::make_shared<Operation>(engine_, collective);
  engine_->queue.push_back(operation);
  engine_->advance();
  return Work(std::move(operation));
}

void MPICommunicator::run(const Collective& collective) {
  if (!engine_->queue.empty()) {
    engine_->drain();
  }
  const auto& [kind, output, input, op, root] = collective;
  const auto dtype = output.scalar_type();
  const auto check = [&](int code) {
    if (code != MPI_SUCCESS) {
      mpi::check(code, collective.describe());
    }
  };
  if (kind == Kind::kAllReduce) {
    const auto type = reducible(dtype);
    const auto mpi_op = own_op(dtype, op);
    if (type && mpi_op) {
      const int64_t element = output.element_size();
      const int64_t piece = kBlockingPieceBytes / element;
      std::byte* const data = bytes_of(output);
      for (int64_t begin = 0; begin < output.numel(); begin += piece) {
        check(MPI_Allreduce(MPI_IN_PLACE, data + begin * element,
                            static_cast<int>(std::min(piece, output.numel() - begin)), *type,
                            *mpi_op, engine_->blocking));
      }
      if (op == ReduceOp::kMean) {
        const torch::NoGradGuard no_grad;
        output.detach().div_(static_cast<double>(engine_->size));
      }
      return;
    }
  } else if (kind == Kind::kBroadcast) {
    const auto size = static_cast<int64_t>(output.nbytes());
    for (int64_t begin = 0; begin < size; begin += kMaxMessageBytes) {
      check(MPI_Bcast(bytes_of(output) + begin,
                      static_cast<int>(std::min(kMaxMessageBytes, size - begin)), MPI_BYTE, root,
                      engine_->blocking));
    }
    return;
  } else if (kind == Kind::kAllGather &&
             output.nbytes() <= static_cast<size_t>(std::numeric_limits<int>::max())) {
    const auto size = static_cast<int>(input.nbytes());
    const bool is_in_place = size > 0 && input.data_ptr() == bytes_of(output) + size * rank();
    check(MPI_Allgather(is_in_place ? MPI_IN_PLACE : input.data_ptr(), size, MPI_BYTE,
                        output.data_ptr(), size, MPI_BYTE, engine_->blocking));
    return;
  }
  start(collective).wait();
}

void MPICommunicator::all_to_all_uneven(const std::vector<torch::Tensor>& outputs,
                                        const std::vector<torch::Tensor>& inputs) {
  check_parts(outputs, inputs);
  engine_->drain();
  std::vector<MPI_Request> requests;
  const auto post = [&](auto function, const torch::Tensor& tensor, int peer) {
    const auto bytes = static_cast<int64_t>(tensor.nbytes());
    for (int64_t begin = 0; begin < bytes; begin += kMaxMessageBytes) {
      mpi::check(function(bytes_of(tensor) + begin,
                          static_cast<int>(std::min(kMaxMessageBytes, bytes - begin)), MPI_BYTE,
                          peer, kPeer, engine_->async, &requests.emplace_back()),
                 "all_to_all_uneven");
    }
  };
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) {
      post(MPI_Irecv, outputs[static_cast<size_t>(r)], r);
    }
  }
  for (int r = 0; r < size(); ++r) {
    if (r != rank()) {
      post(MPI_Isend, inputs[static_cast<size_t>(r)], r);
    }
  }
  const torch::NoGradGuard no_grad;
  const auto own = static_cast<size_t>(rank());
  outputs[own].detach().copy_(inputs[own]);
  mpi::check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
             "all_to_all_uneven");
}

void MPICommunicator::send(const torch::Tensor& tensor, int to) {
  check_tensor(tensor, "send");
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  for (int64_t begin = 0; begin == 0 || begin < bytes; begin += kMaxMessageBytes) {
    MPI_Request request = MPI_REQUEST_NULL;
    mpi::check(MPI_Isend(bytes_of(tensor) + begin,
                         static_cast<int>(std::min(kMaxMessageBytes, bytes - begin)), MPI_BYTE, to,
                         kPeer, engine_->blocking, &request),
               fmt::format("send to rank {}", to));
    engine_->wait(request, fmt::format("send to rank {}", to));
  }
}

void MPICommunicator::recv(const torch::Tensor& tensor, int from) {
  check_tensor(tensor, "recv");
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  for (int64_t begin = 0; begin == 0 || begin < bytes; begin += kMaxMessageBytes) {
    const auto wanted = static_cast<int>(std::min(kMaxMessageBytes, bytes - begin));
    const std::string what = fmt::format("recv of {} bytes from rank {}", bytes, from);
    MPI_Request request = MPI_REQUEST_NULL;
    mpi::check(MPI_Irecv(bytes_of(tensor) + begin, wanted, MPI_BYTE, from, kPeer, engine_->blocking,
                         &request),
               what);
    const MPI_Status status = engine_->wait(request, what);
    int received = 0;
    MPI_Get_count(&status, MPI_BYTE, &received);
    if (received != wanted) {
      throw CommError(
          fmt::format("{}: {}: it sent {}. Send and receive tensors of the same size and dtype.",
                      rank_name(rank(), size()), what, begin + received));
    }
  }
}

void MPICommunicator::barrier() {
  check_agreement("barrier");
  engine_->drain();
  mpi::check(MPI_Barrier(engine_->blocking), "barrier");
}

std::unique_ptr<Communicator> MPICommunicator::split(int color, int key) {
  check_split(color);
  engine_->drain();
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split(engine_->blocking, color, key, &part), "split");
  return std::unique_ptr<Communicator>(
      new MPICommunicator(std::make_shared<Engine>(part, /*is_owned=*/true)));
}

std::vector<std::string> MPICommunicator::exchange(const std::string& text) {
  constexpr size_t kSize = 256;
  std::string own = text.substr(0, kSize - 1);
  own.resize(kSize, '\0');
  std::string all(kSize * static_cast<size_t>(size()), '\0');
  mpi::check(
      MPI_Allgather(own.data(), kSize, MPI_BYTE, all.data(), kSize, MPI_BYTE, engine_->blocking),
      "exchange");
  std::vector<std::string> texts;
  for (size_t i = 0; i < all.size(); i += kSize) {
    texts.emplace_back(all.c_str() + i);
  }
  return texts;
}

}  // namespace trainer
