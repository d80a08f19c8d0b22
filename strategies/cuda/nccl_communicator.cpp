#include <strategies/cuda/nccl_communicator.h>

#include <bit>
#include <chrono>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <strategies/comm/ordered_bits.h>
#include <strategies/cuda/cuda_device.h>
#include <strategies/cuda/cuda_event.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>
#include <trainer/world.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

std::string name_of_this_rank(torch::Device device) {
  return rank_name(world().rank(), world().size(), device.str());
}

[[noreturn]] void throw_failed(ncclResult_t result, const std::string& what, torch::Device device,
                               ncclComm_t comm) {
  const std::string_view detail = ncclGetLastError(comm);
  throw CommError(fmt::format("{}: {} failed: {}.{}\n  Rerun with NCCL_DEBUG=WARN.",
                              name_of_this_rank(device), what, ncclGetErrorString(result),
                              detail.empty() ? "" : fmt::format(" NCCL says: {}", detail)));
}

ncclDataType_t nccl_type(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kFloat64: return ncclFloat64;
    case torch::kFloat32: return ncclFloat32;
    case torch::kBFloat16: return ncclBfloat16;
    case torch::kFloat16: return ncclFloat16;
    case torch::kInt64: return ncclInt64;
    case torch::kInt32: return ncclInt32;
    case torch::kInt8: return ncclInt8;
    case torch::kUInt8: return ncclUint8;
    default: break;
  }
  TRAINER_CHECK(false, fmt::format("{} is converted before", c10::toString(dtype)));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: return ncclSum;
    case ReduceOp::kMean: return ncclAvg;
    case ReduceOp::kMin: return ncclMin;
    case ReduceOp::kMax: return ncclMax;
    case ReduceOp::kProduct: return ncclProd;
  }
  return ncclSum;
}

/// At the end of the program, where CUDA may come to its end before static objects do.
bool cuda_has_ended() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaErrorCudartUnloading;
}

std::byte* bytes_of(const torch::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

/// Sends and receives that NCCL carries out together, so that none waits for another.
class Group {
 public:
  Group() { note(ncclGroupStart()); }
  void note(ncclResult_t result) {
    if (first_failure_ == ncclSuccess) {
      first_failure_ = result;
    }
  }
  ncclResult_t end() {
    note(ncclGroupEnd());
    return first_failure_;
  }

 private:
  ncclResult_t first_failure_ = ncclSuccess;
};

}  // namespace

/// The connection itself: what operations that are still going on need when the communicator has
/// ended.
class NCCLCommunicator::Link {
 public:
  Link(ncclComm_t comm, torch::Device device)
      : comm_(comm),
        device_(device),
        // Of LibTorch's pool, whose streams live for ever: memory that its allocator has given out
        // on a stream is bound to it.
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())) {
    check(ncclCommUserRank(comm_, &rank_), "ncclCommUserRank");
    check(ncclCommCount(comm_, &size_), "ncclCommCount");
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() {
    if (comm_ != nullptr && !cuda_has_ended()) {
      (void)cudaSetDevice(device_.index());
      (void)ncclCommDestroy(comm_);
    }
  }

  ncclComm_t comm() const { return comm_; }
  torch::Device device() const { return device_; }
  const c10::cuda::CUDAStream& stream() const { return stream_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  bool has_failed() const { return has_failed_; }

  void check(ncclResult_t result, const std::string& what) {
    if (result != ncclSuccess && result != ncclInProgress) {
      has_failed_ = true;
      throw_failed(result, what, device_, comm_);
    }
  }

  /// Throws CommError for what went wrong since, on any rank that NCCL knows of.
  template <class Describe>
  void check_so_far(const Describe& describe) {
    if (comm_ == nullptr) {
      throw CommError(fmt::format("{}: {}: the communicator was given up after an error.",
                                  name_of_this_rank(device_), describe()));
    }
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess || (result != ncclSuccess && result != ncclInProgress)) {
      check(asked != ncclSuccess ? asked : result, describe());
    }
  }

  /// Ends what is going on, without the other ranks.
  void abort() {
    if (comm_ != nullptr && !cuda_has_ended()) {
      (void)ncclCommAbort(std::exchange(comm_, nullptr));
    }
  }

  cuda::Event take_event() {
    if (spare_events_.empty()) {
      return cuda::Event();
    }
    auto event = std::move(spare_events_.back());
    spare_events_.pop_back();
    return event;
  }
  void give_back(cuda::Event event) { spare_events_.push_back(std::move(event)); }

 private:
  ncclComm_t comm_;
  torch::Device device_;
  c10::cuda::CUDAStream stream_;
  int rank_ = 0, size_ = 1;
  bool has_failed_ = false;
  std::vector<cuda::Event> spare_events_;
};

/// Holds its tensors until its end is known: the caching allocator would give memory that the
/// caller lets go of to the caller's stream again, which knows nothing of this one. Telling the
/// allocator instead (recordStream) makes it keep the memory for as long as it takes to look, which
/// is later than wait() and differs from run to run.
class NCCLCommunicator::Operation : public Work::State {
 public:
  Operation(std::shared_ptr<Link> link, Collective collective)
      : link_(std::move(link)), collective_(std::move(collective)) {
    tensors_.push_back(collective_->output);
    if (collective_->input.defined()) {
      tensors_.push_back(collective_->input);
    }
  }
  Operation(std::shared_ptr<Link> link, std::string name, std::vector<torch::Tensor> tensors)
      : link_(std::move(link)), name_(std::move(name)), tensors_(std::move(tensors)) {}
  ~Operation() override {
    if (done_) {
      link_->give_back(std::move(*done_));
    }
  }

  std::string describe() const { return collective_ ? collective_->describe() : name_; }
  const std::vector<torch::Tensor>& tensors() const { return tensors_; }

  /// Runs `call`, which puts the operation on the stream, after what is on the caller's stream.
  template <class Call>
  void launch(const Call& call) {
    caller_ = c10::cuda::getCurrentCUDAStream(link_->device().index());
    auto event = link_->take_event();
    event.record(*caller_);
    event.block(link_->stream());
    {
      const c10::cuda::CUDAStreamGuard on_stream(link_->stream());
      const at::AutoDispatchBelowADInplaceOrView without_autograd;
      call();
    }
    event.record(link_->stream());
    done_ = std::move(event);
  }

  bool is_done() override {
    link_->check_so_far([&] { return describe(); });
    return is_reached();
  }
  void wait() override {
    const c10::cuda::CUDAGuard guard(link_->device());
    link_->check_so_far([&] { return describe(); });
    const auto stream = c10::cuda::getCurrentCUDAStream(link_->device().index());
    done_->block(stream);
    if (stream == *caller_) {
      forget_tensors();  // whoever gets their memory on that stream comes after this operation
    }
  }

  bool is_reached() const { return done_->is_reached(); }
  void forget_tensors() {
    tensors_.clear();
    if (collective_) {
      name_ = collective_->describe();
      collective_.reset();
    }
  }

 private:
  std::shared_ptr<Link> link_;
  std::optional<Collective> collective_;
  std::string name_;  // of what is not a Collective
  std::vector<torch::Tensor> tensors_;
  std::optional<c10::cuda::CUDAStream> caller_;
  std::optional<cuda::Event> done_;
};

NCCLCommunicator::NCCLCommunicator(std::shared_ptr<Link> link) : link_(std::move(link)) {}

std::unique_ptr<Communicator> NCCLCommunicator::world(torch::Device device) {
  auto& processes = trainer::world();
  const c10::cuda::CUDAGuard guard(device);
  const auto gpu = fmt::format("{} {}", host_name(), cuda::uuid(device));
  const auto of_ranks = processes.all_gather(gpu);
  for (int r = 0; r < processes.size(); ++r) {
    if (r != processes.rank() && of_ranks[static_cast<size_t>(r)] == gpu) {
      throw UsageError(fmt::format(
          "{} has the same GPU as rank {}.\n  Start at most one process per GPU on each node, or "
          "let CUDA_VISIBLE_DEVICES show each its own.",
          name_of_this_rank(device), r));
    }
  }
  ncclUniqueId id{};
  ncclResult_t result = ncclSuccess;
  std::string text;
  if (processes.is_global_zero()) {
    result = ncclGetUniqueId(&id);
    // Without an id the others are told so, instead of waiting for one.
    text = result == ncclSuccess ? std::string(id.internal, sizeof id.internal) : std::string();
  }
  text = processes.broadcast(std::move(text));
  if (text.size() != sizeof id.internal) {
    throw_failed(processes.is_global_zero() ? result : ncclRemoteError, "ncclGetUniqueId", device,
                 nullptr);
  }
  text.copy(id.internal, sizeof id.internal);
  ncclComm_t comm = nullptr;
  result = ncclCommInitRank(&comm, processes.size(), id, processes.rank());
  if (result != ncclSuccess) {
    throw_failed(result, "ncclCommInitRank", device, nullptr);
  }
  return std::unique_ptr<Communicator>(new NCCLCommunicator(std::make_shared<Link>(comm, device)));
}

NCCLCommunicator::~NCCLCommunicator() {
  try {
    // Where an error ends the run, the other ranks may never come to what is still going on.
    if (link_->has_failed() || std::uncaught_exceptions() > 0) {
      link_->abort();
    } else {
      wait_for_all();
    }
  } catch (const std::exception&) {
    link_->abort();
  }
}

int NCCLCommunicator::rank() const { return link_->rank(); }
int NCCLCommunicator::size() const { return link_->size(); }

torch::Tensor NCCLCommunicator::empty(at::IntArrayRef sizes, torch::ScalarType dtype) {
  return torch::empty(sizes, torch::dtype(dtype).device(link_->device()));
}

template <class Call>
std::shared_ptr<NCCLCommunicator::Operation> NCCLCommunicator::launch(
    std::shared_ptr<Operation> operation, const Call& call) {
  link_->check_so_far([&] { return operation->describe(); });
  for (const auto& tensor : operation->tensors()) {
    if (tensor.device() != link_->device()) {
      throw UsageError(fmt::format("{}: the tensor is on {}, this communicator is that of {}.",
                                   operation->describe(), tensor.device().str(),
                                   link_->device().str()));
    }
  }
  forget_finished();
  const c10::cuda::CUDAGuard guard(link_->device());
  operation->launch(call);
  in_flight_.push_back(operation);
  return operation;
}

void NCCLCommunicator::forget_finished() {
  while (!in_flight_.empty() && in_flight_.front()->is_reached()) {
    in_flight_.front()->forget_tensors();
    in_flight_.pop_front();
  }
}

Work NCCLCommunicator::start(const Collective& collective) {
  return Work(launch(std::make_shared<Operation>(link_, collective), [&] { enqueue(collective); }));
}

void NCCLCommunicator::run(const Collective& collective) { start(collective).wait(); }

/// Puts the operation on the current stream.
void NCCLCommunicator::enqueue(const Collective& collective) {
  const auto& [kind, output, input, op, root, tag] = collective;
  ncclComm_t const comm = link_->comm();
  cudaStream_t const stream = link_->stream().stream();
  const auto check = [&](ncclResult_t result) {
    if (result != ncclSuccess) {
      link_->check(result, collective.describe());
    }
  };
  // What only moves goes as bytes: every dtype alike.
  switch (kind) {
    case Kind::kAllReduce:
    case Kind::kReduceScatter: reduce(collective); break;
    case Kind::kAllGather:
      check(ncclAllGather(input.data_ptr(), output.data_ptr(), input.nbytes(), ncclUint8, comm,
                          stream));
      break;
    case Kind::kBroadcast:
      check(ncclBroadcast(output.data_ptr(), output.data_ptr(), output.nbytes(), ncclUint8, root,
                          comm, stream));
      break;
    case Kind::kAllToAll: {
      const size_t part = input.nbytes() / static_cast<size_t>(size());
      if (part == 0) {
        break;
      }
      Group group;
      for (int r = 0; r < size(); ++r) {
        const size_t begin = part * static_cast<size_t>(r);
        group.note(ncclSend(bytes_of(input) + begin, part, ncclUint8, r, comm, stream));
        group.note(ncclRecv(bytes_of(output) + begin, part, ncclUint8, r, comm, stream));
      }
      check(group.end());
      break;
    }
  }
}

/// all_reduce and reduce_scatter, with the detours for what NCCL does not do.
void NCCLCommunicator::reduce(const Collective& collective) {
  const bool is_all_reduce = collective.kind == Kind::kAllReduce;
  const auto call = [&](const torch::Tensor& input, const torch::Tensor& output, ncclRedOp_t op) {
    const auto type = nccl_type(output.scalar_type());
    const auto count = static_cast<size_t>(output.numel());
    cudaStream_t const stream = link_->stream().stream();
    const ncclResult_t result = is_all_reduce
                                    ? ncclAllReduce(input.data_ptr(), output.data_ptr(), count,
                                                    type, op, link_->comm(), stream)
                                    : ncclReduceScatter(input.data_ptr(), output.data_ptr(), count,
                                                        type, op, link_->comm(), stream);
    if (result != ncclSuccess) {
      link_->check(result, collective.describe());
    }
  };
  const ReduceOp op = collective.op;
  auto output = collective.output.detach();
  auto input = is_all_reduce ? output : collective.input.detach();
  if (output.is_complex()) {  // sums and means only
    output = torch::view_as_real(output);
    input = torch::view_as_real(input);
  } else if (output.scalar_type() == torch::kBool) {  // minimum and maximum only
    output = output.view(torch::kUInt8);
    input = input.view(torch::kUInt8);
  }
  const auto dtype = output.scalar_type();
  const bool orders = op == ReduceOp::kMin || op == ReduceOp::kMax;
  if (dtype == torch::kInt16 || (orders && c10::isFloatingType(dtype))) {
    const bool is_integer = dtype == torch::kInt16;
    const auto wide_input = is_integer ? input.to(torch::kInt32) : to_ordered_bits(input, op);
    const auto wide_output =
        is_all_reduce ? wide_input : torch::empty(output.sizes(), wide_input.options());
    call(wide_input, wide_output, nccl_op(op));
    output.copy_(is_integer ? wide_output : from_ordered_bits(wide_output));
    return;
  }
  // ncclAvg multiplies each number with 1/size in its own format before it adds, which in bfloat16
  // is off by up to 0.2 % where size is no power of two.
  const bool divides = op == ReduceOp::kMean && dtype == torch::kBFloat16 &&
                       !std::has_single_bit(static_cast<unsigned>(size()));
  call(input, output, divides ? ncclSum : nccl_op(op));
  if (divides) {
    output.div_(static_cast<double>(size()));
  }
}

void NCCLCommunicator::check_peer(const char* operation, int peer) const {
  if (peer < 0 || peer >= size() || peer == rank()) {
    throw UsageError(fmt::format("{}: rank {} is not another one of {}.", operation, peer, size()));
  }
}

void NCCLCommunicator::all_to_all_uneven(const std::vector<torch::Tensor>& outputs,
                                         const std::vector<torch::Tensor>& inputs) {
  check_parts(outputs, inputs);
  auto tensors = outputs;
  tensors.insert(tensors.end(), inputs.begin(), inputs.end());
  launch(std::make_shared<Operation>(link_, "all_to_all_uneven", std::move(tensors)), [&] {
    const auto own = static_cast<size_t>(rank());
    outputs[own].detach().copy_(inputs[own]);
    Group group;
    for (int r = 0; r < size(); ++r) {
      const auto& input = inputs[static_cast<size_t>(r)];
      const auto& output = outputs[static_cast<size_t>(r)];
      if (r != rank() && input.nbytes() > 0) {
        group.note(ncclSend(input.data_ptr(), input.nbytes(), ncclUint8, r, link_->comm(),
                            link_->stream().stream()));
      }
      if (r != rank() && output.nbytes() > 0) {
        group.note(ncclRecv(output.data_ptr(), output.nbytes(), ncclUint8, r, link_->comm(),
                            link_->stream().stream()));
      }
    }
    link_->check(group.end(), "all_to_all_uneven");
  })->wait();
}

// A receiver has to name the size to NCCL, which neither checks nor tells it: so the size goes
// first.
void NCCLCommunicator::send(const torch::Tensor& tensor, int to) {
  check_tensor(tensor, "send");
  check_peer("send", to);
  const auto what = fmt::format("send of {} bytes to rank {}", tensor.nbytes(), to);
  const auto size_sent = torch::full({1}, static_cast<int64_t>(tensor.nbytes()),
                                     torch::dtype(torch::kInt64).device(link_->device()));
  launch(std::make_shared<Operation>(link_, what, std::vector{size_sent, tensor}), [&] {
    for (const auto& part : {size_sent, tensor}) {
      if (part.nbytes() > 0) {
        link_->check(ncclSend(part.data_ptr(), part.nbytes(), ncclUint8, to, link_->comm(),
                              link_->stream().stream()),
                     what);
      }
    }
  })->wait();
}

void NCCLCommunicator::recv(const torch::Tensor& tensor, int from) {
  check_tensor(tensor, "recv");
  check_peer("recv", from);
  const auto what = fmt::format("recv of {} bytes from rank {}", tensor.nbytes(), from);
  const auto receive = [&](const torch::Tensor& into) {
    return launch(std::make_shared<Operation>(link_, what, std::vector{into}), [&] {
      link_->check(ncclRecv(into.data_ptr(), into.nbytes(), ncclUint8, from, link_->comm(),
                            link_->stream().stream()),
                   what);
    });
  };
  const auto size_sent = torch::empty({1}, torch::dtype(torch::kInt64).device(link_->device()));
  const auto first = receive(size_sent);
  wait_on_host(*first);
  first->wait();
  const auto sent = size_sent.item<int64_t>();
  if (sent != static_cast<int64_t>(tensor.nbytes())) {
    if (sent > 0) {  // the sender is not left waiting, so that the communicator stays usable
      receive(torch::empty({sent}, torch::dtype(torch::kUInt8).device(link_->device())))->wait();
    }
    throw CommError(
        fmt::format("{}: {}: it sent {}. Send and receive tensors of the same size and dtype.",
                    name_of_this_rank(link_->device()), what, sent));
  }
  if (sent > 0) {
    receive(tensor)->wait();
  }
}

/// Looks for errors meanwhile, which a host that waits inside CUDA would never hear of.
void NCCLCommunicator::wait_on_host(Operation& operation) {
  const auto start = std::chrono::steady_clock::now();
  while (!operation.is_done()) {
    if (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(1)) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }
}

void NCCLCommunicator::wait_for_all() {
  for (const auto& operation : in_flight_) {
    wait_on_host(*operation);
  }
  forget_finished();
}

void NCCLCommunicator::barrier() {
  check_agreement("barrier");
  const auto token = torch::zeros({1}, torch::dtype(torch::kUInt8).device(link_->device()));
  const auto operation =
      launch(std::make_shared<Operation>(link_, "barrier", std::vector{token}), [&] {
        link_->check(ncclAllReduce(token.data_ptr(), token.data_ptr(), 1, ncclUint8, ncclSum,
                                   link_->comm(), link_->stream().stream()),
                     "barrier");
      });
  wait_on_host(*operation);
  operation->wait();
}

std::unique_ptr<Communicator> NCCLCommunicator::split(int color, int key) {
  check_split(color);
  wait_for_all();  // NCCL makes the new one by operations of the old one
  const c10::cuda::CUDAGuard guard(link_->device());
  link_->check_so_far([] { return "split"; });
  ncclComm_t part = nullptr;
  link_->check(ncclCommSplit(link_->comm(), color, key, &part, nullptr), "split");
  return std::unique_ptr<Communicator>(
      new NCCLCommunicator(std::make_shared<Link>(part, link_->device())));
}

void NCCLCommunicator::poll() {
  link_->check_so_far([] { return "poll"; });
  forget_finished();
}

std::vector<std::string> NCCLCommunicator::exchange(const std::string& text) {
  constexpr int64_t kSize = 256;
  std::string own = text.substr(0, kSize - 1);
  own.resize(kSize, '\0');
  const auto input = torch::from_blob(own.data(), {kSize}, torch::kUInt8).to(link_->device());
  const auto output = torch::empty({size(), kSize}, input.options());
  const Collective collective{Kind::kAllGather, output, input};
  const auto operation =
      launch(std::make_shared<Operation>(link_, collective), [&] { enqueue(collective); });
  wait_on_host(*operation);
  operation->wait();
  const auto on_host = output.to(torch::kCPU);
  std::vector<std::string> texts;
  for (int64_t r = 0; r < size(); ++r) {
    texts.emplace_back(reinterpret_cast<const char*>(on_host[r].const_data_ptr<uint8_t>()));
  }
  return texts;
}

}  // namespace trainer
