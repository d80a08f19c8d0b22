#include <strategies/mpi/mpi_communicator.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <optional>

#include <fmt/format.h>
#include <mpi.h>
#include <torch/utils.h>

#include <strategies/mpi/message_operation.h>
#include <strategies/mpi/mpi_engine.h>
#include <strategies/mpi/mpi_library.h>
#include <strategies/mpi/node_mapping.h>
#include <strategies/mpi/shared_operation.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

// Of MPI's own sums: they stay in the caches between being received and being added.
constexpr int64_t kPieceBytes = int64_t{2} << 20;
// From here on shared memory is faster than MPI's own collectives.
constexpr size_t kSharedBytes = size_t{8} << 10;
constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;  // MPI counts in int

constexpr int kPeer = 2;  // tag, beside those of operations

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

}  // namespace

MPICommunicator::MPICommunicator(std::shared_ptr<MPIEngine> engine) : engine_(std::move(engine)) {}

std::unique_ptr<MPICommunicator> MPICommunicator::world() {
  mpi::initialize();
  return std::unique_ptr<MPICommunicator>(
      new MPICommunicator(std::make_shared<MPIEngine>(MPI_COMM_WORLD, /*is_owned=*/false)));
}

// The engine and what is under way hold each other: memory that MPI and other ranks still write to
// stays until it is done, for ever where an error ended that.
MPICommunicator::~MPICommunicator() = default;

int MPICommunicator::rank() const { return engine_->rank; }
int MPICommunicator::size() const { return engine_->size; }

torch::Tensor MPICommunicator::empty(at::IntArrayRef sizes, torch::ScalarType dtype) {
  return engine_->rendezvous != nullptr ? engine_->rendezvous->memory().empty(sizes, dtype)
                                        : Communicator::empty(sizes, dtype);
}

torch::Tensor MPICommunicator::shared_zeros(at::IntArrayRef sizes, torch::ScalarType dtype) {
  if (engine_->rendezvous == nullptr) {
    return Communicator::shared_zeros(sizes, dtype);
  }
  const int64_t bytes =
      c10::multiply_integers(sizes) * static_cast<int64_t>(c10::elementSize(dtype));
  engine_->drain();
  auto files = mpi::map_files(engine_->blocking, rank() == 0 ? std::max<int64_t>(1, bytes) : 0);
  if (files.empty()) {
    return {};
  }
  const auto memory = std::make_shared<NodeMapping>(std::move(files.front()));
  return torch::from_blob(
      memory->data(), sizes, [memory](void*) {}, dtype);
}

bool MPICommunicator::prefers_own_memory() const { return engine_->rendezvous != nullptr; }

void MPICommunicator::poll() { engine_->advance(/*is_waiting=*/false); }

Work MPICommunicator::start(const Collective& collective) {
  std::shared_ptr<MPIOperation> operation;
  if (engine_->rendezvous != nullptr) {
    operation = std::make_shared<SharedOperation>(engine_, collective);
  } else {
    operation = std::make_shared<MessageOperation>(engine_, collective);
  }
  engine_->queue.push_back(operation);
  engine_->advance(/*is_waiting=*/false);
  return Work(std::move(operation));
}

void MPICommunicator::run(const Collective& collective) {
  if (!engine_->queue.empty()) {
    engine_->drain();
  }
  const auto& [kind, output, input, op, root, tag] = collective;
  if (engine_->rendezvous != nullptr && output.nbytes() >= kSharedBytes) {
    start(collective).wait();
    return;
  }
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
      const int64_t piece = kPieceBytes / element;
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
  const flight::Waiting waiting(flight::begin_operation("all_to_all_uneven"));
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
  const flight::Waiting waiting(flight::begin_operation("barrier"));
  engine_->drain();
  mpi::check(MPI_Barrier(engine_->blocking), "barrier");
}

std::unique_ptr<Communicator> MPICommunicator::split(int color, int key) {
  check_split(color);
  const flight::Waiting waiting(flight::begin_operation("split"));
  engine_->drain();
  MPI_Comm part = MPI_COMM_NULL;
  mpi::check(MPI_Comm_split(engine_->blocking, color, key, &part), "split");
  return std::unique_ptr<Communicator>(
      new MPICommunicator(std::make_shared<MPIEngine>(part, /*is_owned=*/true)));
}

std::vector<std::string> MPICommunicator::exchange(const std::string& text) {
  constexpr size_t kSize = 256;
  std::string own = text.substr(0, kSize - 1);
  own.resize(kSize, '\0');
  std::string all(kSize * static_cast<size_t>(size()), '\0');
  MPI_Request request = MPI_REQUEST_NULL;
  mpi::check(MPI_Iallgather(own.data(), kSize, MPI_BYTE, all.data(), kSize, MPI_BYTE,
                            engine_->blocking, &request),
             "exchange");
  engine_->wait(request, "exchange");
  std::vector<std::string> texts;
  for (size_t i = 0; i < all.size(); i += kSize) {
    texts.emplace_back(all.c_str() + i);
  }
  return texts;
}

}  // namespace trainer
