#include <strategies/comm/communicator.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <strategies/comm/cuda_library.h>
#include <strategies/mpi/mpi_communicator.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

constexpr int64_t kMaxDims = 16;  // of a tensor that all_gather_uneven() takes

const char* name(Kind kind) {
  switch (kind) {
    case Kind::kAllReduce: return "all_reduce";
    case Kind::kReduceScatter: return "reduce_scatter";
    case Kind::kAllGather: return "all_gather";
    case Kind::kBroadcast: return "broadcast";
    case Kind::kAllToAll: return "all_to_all";
  }
  return "";
}

const char* name(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: return "sum";
    case ReduceOp::kMean: return "mean";
    case ReduceOp::kMin: return "minimum";
    case ReduceOp::kMax: return "maximum";
    case ReduceOp::kProduct: return "product";
  }
  return "";
}

bool reduces(Kind kind) { return kind == Kind::kAllReduce || kind == Kind::kReduceScatter; }

/// Whether numbers of this dtype can be reduced so, on every kind of device.
bool can_reduce(torch::ScalarType dtype, ReduceOp op) {
  const bool orders = op == ReduceOp::kMin || op == ReduceOp::kMax;
  switch (dtype) {
    case torch::kFloat64:
    case torch::kFloat32:
    case torch::kBFloat16:
    case torch::kFloat16: return true;
    case torch::kInt64:
    case torch::kInt32:
    case torch::kInt16:
    case torch::kInt8:
    case torch::kUInt8: return op != ReduceOp::kMean;
    case torch::kBool: return orders;
    case torch::kComplexFloat:
    case torch::kComplexDouble: return op == ReduceOp::kSum || op == ReduceOp::kMean;
    default: return false;
  }
}

uint64_t record(const Collective& collective) {
  const auto& tensor = collective.input.defined() ? collective.input : collective.output;
  return flight::begin_operation(name(collective.kind), c10::toString(tensor.scalar_type()),
                                 tensor.numel(), static_cast<int64_t>(tensor.nbytes()));
}

bool agreement_is_checked() {
  static const bool checked = [] {
    const char* value = std::getenv("TRAINER_CHECK_COLLECTIVES");
    return value != nullptr && std::string_view(value) == "1";
  }();
  return checked;
}

}  // namespace

Collective::Form Collective::form() const {
  const auto& tensor = input.defined() ? input : output;
  return {kind, op, root, tensor.scalar_type(), tensor.numel(), tag};
}

std::string Collective::Form::describe() const {
  std::string text = name(kind);
  if (reduces(kind)) {
    text += fmt::format(" ({})", name(op));
  } else if (kind == Kind::kBroadcast) {
    text += fmt::format(" from rank {}", root);
  }
  text += fmt::format(" of {} {} elements", numel, c10::toString(dtype));
  return tag == 0 ? text : text + fmt::format(" (tag {})", tag);
}

void Communicator::check_tensor(const torch::Tensor& tensor, const char* operation) const {
  if (!tensor.defined()) {
    throw UsageError(fmt::format("{}: the tensor is undefined.", operation));
  }
  if (tensor.device().type() != device_type()) {
    throw UsageError(fmt::format(
        "{}: the tensor is on {}, this communicator is for {} tensors. Move it there, or use the "
        "communicator of its device.",
        operation, tensor.device().str(), c10::DeviceTypeName(device_type(), true)));
  }
  if (tensor.layout() != torch::kStrided || !tensor.is_contiguous()) {
    throw UsageError(fmt::format(
        "{}: the tensor of shape {} is {}. Pass tensor.contiguous(), and copy the result back.",
        operation, c10::str(tensor.sizes()),
        tensor.layout() != torch::kStrided ? "sparse" : "not contiguous"));
  }
}

void Communicator::check(const Collective& collective) {
  const auto& [kind, output, input, op, root, tag] = collective;
  const char* const operation = name(kind);
  check_tensor(output, operation);
  if (input.defined()) {
    check_tensor(input, operation);
    if (input.scalar_type() != output.scalar_type()) {
      throw UsageError(fmt::format("{}: the input is {}, the output {}. Give both one dtype.",
                                   operation, c10::toString(input.scalar_type()),
                                   c10::toString(output.scalar_type())));
    }
  }
  const int64_t in = input.defined() ? input.numel() : output.numel();
  const int64_t wanted = kind == Kind::kReduceScatter ? in / size()
                         : kind == Kind::kAllGather   ? in * size()
                                                      : in;
  if (output.numel() != wanted || (kind == Kind::kReduceScatter && in % size() != 0) ||
      (kind == Kind::kAllToAll && in % size() != 0)) {
    throw UsageError(
        fmt::format("{}: an input of {} elements and an output of {} do not go "
                    "together among {} ranks.",
                    operation, in, output.numel(), size()));
  }
  if (kind == Kind::kAllToAll && in > 0 && output.data_ptr() == input.data_ptr()) {
    throw UsageError("all_to_all: input and output are the same memory. Give it another output.");
  }
  if (reduces(kind) && !can_reduce(output.scalar_type(), op)) {
    throw UsageError(fmt::format("{}: the {} of {} is not there. Convert the tensor first.",
                                 operation, name(op), c10::toString(output.scalar_type())));
  }
  if (root < 0 || root >= size()) {
    throw UsageError(
        fmt::format("{}: there is no rank {}; there are {}.", operation, root, size()));
  }
  if (agreement_is_checked()) {
    check_agreement(collective.describe());
  }
}

void Communicator::check_parts(const std::vector<torch::Tensor>& outputs,
                               const std::vector<torch::Tensor>& inputs) {
  const auto ranks = static_cast<size_t>(size());
  if (outputs.size() != ranks || inputs.size() != ranks) {
    throw UsageError(
        fmt::format("all_to_all_uneven: {} outputs and {} inputs for {} ranks. Give "
                    "one of each for every rank.",
                    outputs.size(), inputs.size(), ranks));
  }
  for (const auto* tensors : {&outputs, &inputs}) {
    for (const auto& tensor : *tensors) {
      check_tensor(tensor, "all_to_all_uneven");
    }
  }
  check_agreement("all_to_all_uneven");
}

void Communicator::check_split(int color) {
  if (color < 0) {
    throw UsageError(fmt::format("split: the color is {}, it must be at least 0.", color));
  }
  check_agreement("split");
}

void Communicator::check_agreement(const std::string& operation) {
  if (!agreement_is_checked()) {
    return;
  }
  const auto of_ranks = exchange(operation);
  const bool agree = std::all_of(of_ranks.begin(), of_ranks.end(),
                                 [&](const auto& one) { return one == of_ranks.front(); });
  if (agree) {
    return;
  }
  std::string text = rank_name(rank(), size()) + ": the ranks called different operations:";
  for (size_t i = 0; i < of_ranks.size(); ++i) {
    text += fmt::format("\n  rank {}: {}", i, of_ranks[i]);
  }
  throw CommError(text +
                  "\n  Let every rank take the same way through the code that communicates.");
}

void Work::wait() {
  if (state_) {
    const flight::Waiting waiting(number_);
    state_->wait();
  }
}

bool Work::is_done() {
  const bool done = !state_ || state_->is_done();
  if (done) {
    flight::end_operation(number_);
  }
  return done;
}

void Communicator::run_recorded(const Collective& collective) {
  check(collective);
  const flight::Waiting waiting(record(collective));
  run(collective);
}

Work Communicator::start_recorded(const Collective& collective) {
  check(collective);
  const uint64_t number = record(collective);
  Work work = start(collective);
  work.number_ = number;
  return work;
}

torch::Tensor Communicator::empty(at::IntArrayRef sizes, torch::ScalarType dtype) {
  return torch::empty(sizes, torch::dtype(dtype).device(device_type()));
}

torch::Tensor Communicator::shared_zeros(at::IntArrayRef sizes, torch::ScalarType dtype) {
  return size() == 1 ? torch::zeros(sizes, torch::dtype(dtype).device(device_type()))
                     : torch::Tensor();
}

void Communicator::all_reduce(const torch::Tensor& tensor, ReduceOp op) {
  const Collective collective{Kind::kAllReduce, tensor, {}, op};
  run_recorded(collective);
}

Work Communicator::all_reduce_async(const torch::Tensor& tensor, ReduceOp op) {
  const Collective collective{Kind::kAllReduce, tensor, {}, op};
  return start_recorded(collective);
}

void Communicator::reduce_scatter(const torch::Tensor& output, const torch::Tensor& input,
                                  ReduceOp op) {
  const Collective collective{Kind::kReduceScatter, output, input, op};
  run_recorded(collective);
}

Work Communicator::reduce_scatter_async(const torch::Tensor& output, const torch::Tensor& input,
                                        ReduceOp op) {
  const Collective collective{Kind::kReduceScatter, output, input, op};
  return start_recorded(collective);
}

void Communicator::all_gather(const torch::Tensor& output, const torch::Tensor& input) {
  const Collective collective{Kind::kAllGather, output, input};
  run_recorded(collective);
}

Work Communicator::all_gather_async(const torch::Tensor& output, const torch::Tensor& input,
                                    int64_t tag) {
  const Collective collective{
      .kind = Kind::kAllGather, .output = output, .input = input, .tag = tag};
  return start_recorded(collective);
}

std::vector<torch::Tensor> Communicator::all_gather_uneven(const torch::Tensor& input) {
  check_tensor(input, "all_gather_uneven");
  if (input.dim() > kMaxDims) {
    throw UsageError(
        fmt::format("all_gather_uneven: the tensor has {} dimensions, at most {} are "
                    "possible. Reshape it.",
                    input.dim(), kMaxDims));
  }
  auto own = torch::zeros({kMaxDims + 1}, torch::kInt64);
  own[0] = input.dim();
  for (int64_t i = 0; i < input.dim(); ++i) {
    own[i + 1] = input.size(i);
  }
  own = own.to(input.device());
  auto shapes = torch::empty({size(), kMaxDims + 1}, own.options());
  all_gather(shapes, own);
  shapes = shapes.to(torch::kCPU);
  std::vector<std::vector<int64_t>> sizes;
  int64_t longest = 0;
  for (int64_t r = 0; r < size(); ++r) {
    const auto* row = shapes.const_data_ptr<int64_t>() + r * (kMaxDims + 1);
    sizes.emplace_back(row + 1, row + 1 + row[0]);
    longest = std::max(longest, c10::multiply_integers(sizes.back()));
  }
  auto padded = torch::zeros({longest}, input.options().requires_grad(false));
  padded.narrow(0, 0, input.numel()).copy_(input.detach().flatten());
  auto rows = torch::empty({size(), longest}, padded.options());
  all_gather(rows, padded);
  std::vector<torch::Tensor> result;
  for (int64_t r = 0; r < size(); ++r) {
    const auto& shape = sizes[static_cast<size_t>(r)];
    result.push_back(rows[r].narrow(0, 0, c10::multiply_integers(shape)).view(shape).clone());
  }
  return result;
}

void Communicator::broadcast(const torch::Tensor& tensor, int root) {
  const Collective collective{Kind::kBroadcast, tensor, {}, ReduceOp::kSum, root};
  run_recorded(collective);
}

Work Communicator::broadcast_async(const torch::Tensor& tensor, int root) {
  const Collective collective{Kind::kBroadcast, tensor, {}, ReduceOp::kSum, root};
  return start_recorded(collective);
}

void Communicator::all_to_all(const torch::Tensor& output, const torch::Tensor& input) {
  const Collective collective{Kind::kAllToAll, output, input};
  run_recorded(collective);
}

Work Communicator::all_to_all_async(const torch::Tensor& output, const torch::Tensor& input) {
  const Collective collective{Kind::kAllToAll, output, input};
  return start_recorded(collective);
}

std::unique_ptr<Communicator> world_communicator(torch::DeviceType device) {
  if (device == torch::kCPU) {
    return MPICommunicator::world();
  }
  if (device == torch::kCUDA) {
    return cuda_world_communicator();
  }
  throw UsageError(
      fmt::format("there is no communicator for {} tensors.", c10::DeviceTypeName(device, true)));
}

}  // namespace trainer
