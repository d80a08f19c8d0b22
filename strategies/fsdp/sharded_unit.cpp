#include <strategies/fsdp/sharded_unit.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include <fmt/format.h>
#include <torch/utils.h>

#include <strategies/gradient_hook.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

// Parameters and slices begin at 64 bytes or more: kernels are faster there.
constexpr int64_t kAlignment = 16;

int64_t aligned(int64_t numel, int64_t alignment) {
  return (numel + alignment - 1) / alignment * alignment;
}

int64_t numel_of(const std::vector<std::pair<std::string, torch::Tensor>>& parameters,
                 int64_t ranks) {
  int64_t sum = 0;
  for (const auto& [name, tensor] : parameters) {
    sum += aligned(tensor.numel(), kAlignment);
  }
  return aligned(sum, kAlignment * ranks);
}

}  // namespace

torch::Tensor UnitBuffers::take(int64_t numel, torch::ScalarType dtype) {
  const auto bytes = numel * static_cast<int64_t>(c10::elementSize(dtype));
  return pool_.take(bytes).narrow(0, 0, bytes).view(dtype);
}

void UnitBuffers::give_back(const torch::Tensor& buffer) {
  const auto bytes = static_cast<int64_t>(buffer.storage().nbytes());
  pool_.give_back(buffer.view(torch::kUInt8).as_strided({bytes}, {1}, 0));
}

ShardedUnit::ShardedUnit(std::string name,
                         const std::vector<std::pair<std::string, torch::Tensor>>& parameters,
                         Communicator& gathers, Communicator& reductions,
                         UnitBuffers& gather_buffers, UnitBuffers& gradient_buffers, Owner& owner,
                         Interception way)
    : GuardedStorage(way,
                     static_cast<size_t>(numel_of(parameters, gathers.size())) *
                         parameters.front().second.element_size(),
                     parameters.front().second.device()),
      name_(std::move(name)),
      freed_message_(
          fmt::format("FSDP: a parameter of unit '{}' was read while it is sharded", name_)),
      tag_(static_cast<int64_t>(std::hash<std::string>()(name_) >> 32)),
      gathers_(gathers),
      reductions_(reductions),
      gather_buffers_(gather_buffers),
      gradient_buffers_(gradient_buffers),
      owner_(owner),
      numel_(numel_of(parameters, gathers.size())) {
  const torch::NoGradGuard no_grad;
  const auto dtype = parameters.front().second.scalar_type();
  const int64_t shard_numel = numel_ / gathers_.size();
  shard_ = gathers_.empty({shard_numel}, dtype).zero_();
  int64_t begin = 0;
  for (const auto& [parameter_name, tensor] : parameters) {
    Parameter parameter;
    parameter.name = parameter_name;
    parameter.tensor = tensor;
    parameter.sizes = tensor.sizes().vec();
    parameter.begin = begin;
    parameter.numel = tensor.numel();
    begin += aligned(tensor.numel(), kAlignment);
    const auto [first, count] = segment(parameter);
    segment_in(shard_, parameter)
        .copy_(tensor.detach().reshape({-1}).narrow(0, first - parameter.begin, count));
    parameters_.push_back(std::move(parameter));
  }
  show_views();
  drop_contents(freed_message_);
}

/// This rank's part of a parameter: where it begins in the unit, and its length.
std::pair<int64_t, int64_t> ShardedUnit::segment(const Parameter& parameter) const {
  const int64_t begin = gathers_.rank() * shard_.numel();
  const int64_t first = std::max(begin, parameter.begin);
  const int64_t end = std::min(begin + shard_.numel(), parameter.begin + parameter.numel);
  return first < end ? std::pair{first, end - first} : std::pair{parameter.begin, int64_t{0}};
}

/// Of this rank's slice of values, those of the parameter.
torch::Tensor ShardedUnit::segment_in(const torch::Tensor& slice,
                                      const Parameter& parameter) const {
  const auto [first, count] = segment(parameter);
  return slice.narrow(0, count > 0 ? first - gathers_.rank() * shard_.numel() : 0, count);
}

void ShardedUnit::check_place(const Parameter& parameter) const {
  if (GuardedStorage::of(parameter.tensor) != this) {
    throw UsageError(fmt::format(
        "FSDP: parameter '{}' has left its unit '{}': module.to() or set_data() gave it other "
        "memory after it was sharded. Convert the module before fit, or by trainer.precision.",
        parameter.name, name_));
  }
}

void ShardedUnit::start_gather() {
  if (buffer_.defined()) {
    return;
  }
  for (const auto& parameter : parameters_) {
    check_place(parameter);
  }
  const auto buffer = gather_buffers_.take(numel_, dtype());
  gather_ = gathers_.all_gather_async(buffer, shard_, tag_);
  buffer_ = buffer;
}

void ShardedUnit::finish_gather() {
  if (has_contents()) {
    return;
  }
  start_gather();
  gather_.wait();
  gather_ = Work();
  set_contents(buffer_.data_ptr());
}

void ShardedUnit::release() {
  if (!buffer_.defined()) {
    return;
  }
  gather_.wait();
  gather_ = Work();
  if (was_written_) {
    const torch::NoGradGuard no_grad;
    shard_.copy_(buffer_.narrow(0, gathers_.rank() * shard_.numel(), shard_.numel()));
    was_written_ = false;
  }
  drop_contents(freed_message_);
  gather_buffers_.give_back(buffer_);
  buffer_.reset();
}

void ShardedUnit::touch(bool writes) {
  owner_.before_use(*this);
  was_written_ |= writes;
}

bool ShardedUnit::wants_gradients() const {
  return std::any_of(parameters_.begin(), parameters_.end(),
                     [](const auto& parameter) { return parameter.tensor.requires_grad(); });
}

void ShardedUnit::add_gradient(size_t index) {
  const torch::NoGradGuard no_grad;
  auto& parameter = parameters_[index];
  check_place(parameter);
  auto& gradient = parameter.tensor.mutable_grad();
  check_dense("FSDP", parameter.name, gradient);
  if (!gradient_.defined()) {
    gradient_ = gradient_buffers_.take(numel_, dtype()).zero_();
  }
  const auto slot = gradient_.narrow(0, parameter.begin, parameter.numel).view(parameter.sizes);
  if (parameter.got_gradient) {
    slot.add_(gradient);
  } else {
    slot.copy_(gradient);
    parameter.got_gradient = true;
    --num_missing_;
  }
  gradient.reset();
}

void ShardedUnit::start_reduction() {
  const torch::NoGradGuard no_grad;
  if (!gradient_.defined()) {
    gradient_ = gradient_buffers_.take(numel_, dtype()).zero_();
  }
  if (!shard_gradient_.defined()) {
    shard_gradient_ = reductions_.empty({shard_.numel()}, dtype());
  }
  // Ranks need not agree on which parameters have a gradient, so it is not asked for.
  const auto is_cleared = [](const auto& parameter) { return parameter.is_cleared; };
  if (!std::all_of(parameters_.begin(), parameters_.end(), is_cleared)) {
    for (const auto& parameter : parameters_) {
      if (parameter.is_cleared) {
        segment_in(shard_gradient_, parameter).zero_();
      }
    }
    reduced_ = gradient_buffers_.take(shard_.numel(), dtype());
  }
  reduction_ = reductions_.reduce_scatter_async(reduced_.defined() ? reduced_ : shard_gradient_,
                                                gradient_, ReduceOp::kMean);
}

void ShardedUnit::finish_reduction() {
  reduction_.wait();
  reduction_ = Work();
  if (reduced_.defined()) {
    const torch::NoGradGuard no_grad;
    shard_gradient_.add_(reduced_);
    gradient_buffers_.give_back(reduced_);
    reduced_.reset();
  }
  for (auto& parameter : parameters_) {
    parameter.has_gradient |= parameter.got_gradient;
    parameter.is_cleared = false;
  }
  drop_gradients();
}

void ShardedUnit::drop_gradients() {
  if (gradient_.defined()) {
    gradient_buffers_.give_back(gradient_);
    gradient_.reset();
  }
  for (auto& parameter : parameters_) {
    parameter.got_gradient = false;
  }
}

void ShardedUnit::begin_pass() {
  drop_gradients();  // of a pass that an error ended
  num_missing_ = std::count_if(parameters_.begin(), parameters_.end(), [](const auto& parameter) {
    return parameter.tensor.requires_grad();
  });
}

void ShardedUnit::clear_gradient(size_t index) {
  auto& parameter = parameters_[index];
  parameter.tensor.mutable_grad().reset();
  parameter.has_gradient = false;
  parameter.is_cleared = true;
}

void ShardedUnit::show_segments() {
  if (std::exchange(shows_segments_, true)) {
    return;
  }
  const Unguarded unguarded;
  release();
  const torch::NoGradGuard no_grad;
  for (auto& parameter : parameters_) {
    parameter.tensor.set_data(segment_in(shard_, parameter));
    if (parameter.has_gradient) {
      parameter.tensor.mutable_grad() = segment_in(shard_gradient_, parameter);
    }
  }
}

void ShardedUnit::hide_segments() {
  if (!std::exchange(shows_segments_, false)) {
    return;
  }
  for (auto& parameter : parameters_) {
    parameter.tensor.mutable_grad().reset();
  }
  show_views();
}

void ShardedUnit::show_views() {
  const Unguarded unguarded;
  for (auto& parameter : parameters_) {
    parameter.tensor.set_data(view(parameter.begin, parameter.sizes, dtype()));
  }
}

void ShardedUnit::show_plain() {
  const Unguarded unguarded;
  release();
  const torch::NoGradGuard no_grad;
  plain_ = torch::empty({numel_}, shard_.options());
  gathers_.all_gather(plain_, shard_);
  for (auto& parameter : parameters_) {
    parameter.tensor.set_data(
        plain_.narrow(0, parameter.begin, parameter.numel).view(parameter.sizes));
  }
}

void ShardedUnit::hide_plain() {
  const torch::NoGradGuard no_grad;
  shard_.copy_(plain_.narrow(0, gathers_.rank() * shard_.numel(), shard_.numel()));
  plain_.reset();
  show_views();
}

std::pair<int64_t, int64_t> ShardedUnit::place_of_segment(size_t index) const {
  const auto [first, count] = segment(parameters_[index]);
  return {first - parameters_[index].begin, count};
}

}  // namespace trainer
