#include <strategies/fsdp/sharded_unit.h>

#include <functional>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

std::vector<torch::Tensor> tensors_of(const UnitGradients::Parameters& parameters) {
  std::vector<torch::Tensor> tensors;
  for (const auto& [name, tensor] : parameters) {
    tensors.push_back(tensor);
  }
  return tensors;
}

/// Of what an optimizer sees.
torch::TensorOptions master_options(const ShardedUnit::Init& init) {
  const auto& parameter = init.parameters.front().second;
  return torch::dtype(parameter.scalar_type())
      .device(init.offloads ? torch::Device(torch::kCPU) : parameter.device());
}

}  // namespace

ShardedUnit::ShardedUnit(Init init)
    : GuardedStorage(init.interception,
                     static_cast<size_t>(
                         UnitLayout(tensors_of(init.parameters), 0, init.gathers.size()).numel()) *
                         c10::elementSize(init.gathered_dtype),
                     init.parameters.front().second.device()),
      name_(std::move(init.name)),
      freed_message_(
          fmt::format("FSDP: a parameter of unit '{}' was read while it is sharded", name_)),
      tag_(static_cast<int64_t>(std::hash<std::string>()(name_) >> 32)),
      master_(master_options(init)),
      parameters_(std::move(init.parameters)),
      layout_(tensors_of(parameters_), init.gathers.rank(), init.gathers.size()),
      gathered_dtype_(init.gathered_dtype),
      gathers_(init.gathers),
      buffers_(init.buffers),
      owner_(init.owner),
      gradients_(layout_, parameters_, master_, init.reductions) {
  const torch::NoGradGuard no_grad;
  if (init.shares_memory) {
    shared_ = gathers_.shared_zeros({layout_.numel()}, gathered_dtype_);
  }
  own_ = shared_.defined() ? layout_.shard_in(shared_)
                           : gathers_.empty({layout_.shard_numel()}, gathered_dtype_).zero_();
  const bool is_same = own_.dtype() == master_.dtype() && own_.device() == master_.device();
  shard_ = is_same ? own_ : torch::zeros({layout_.shard_numel()}, master_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto [first, count] = layout_.segment(i);
    segments_.push_back(layout_.segment_in(shard_, i));
    segments_.back().copy_(parameters_[i].second.detach().reshape({-1}).narrow(0, first, count));
    views_.push_back(view(layout_.begin(i), layout_.sizes(i), gathered_dtype_));
  }
  show_views();
  drop_contents(freed_message_);
}

void ShardedUnit::check_place(size_t index) const {
  const auto& [name, tensor] = parameters_[index];
  if (GuardedStorage::of(tensor) != this) {
    throw UsageError(fmt::format(
        "FSDP: parameter '{}' has left its unit '{}': module.to() or set_data() gave it other "
        "memory after it was sharded. Convert the module before fit, or by trainer.precision.",
        name, name_));
  }
}

void ShardedUnit::check_places() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    check_place(i);
  }
}

void ShardedUnit::refresh() {
  if (std::exchange(is_stale_, false) && !shard_.is_same(own_)) {
    const torch::NoGradGuard no_grad;
    own_.copy_(shard_);
  }
}

void ShardedUnit::start_gather() {
  if (buffer_.defined() || has_contents()) {
    return;
  }
  check_places();
  if (shared_.defined()) {
    return;
  }
  refresh();
  auto buffer = buffers_.take(layout_.numel(), gathered_dtype_);
  gather_ = gathers_.all_gather_async(buffer, own_, tag_);
  buffer_ = std::move(buffer);
}

void ShardedUnit::finish_gather() {
  if (has_contents()) {
    return;
  }
  start_gather();
  gather_.wait();
  gather_ = Work();
  set_contents((shared_.defined() ? shared_ : buffer_).data_ptr());
}

void ShardedUnit::release() {
  if (!buffer_.defined()) {
    return;
  }
  gather_.wait();
  gather_ = Work();
  write_back();
  drop_contents(freed_message_);
  buffers_.give_back(buffer_);
}

void ShardedUnit::touch(bool writes) {
  owner_.before_use(*this);
  if (writes && !shows_segments_) {
    make_private();
    was_written_ = true;
  }
}

/// Every rank writes the same: to memory that they share they would do so several times.
void ShardedUnit::make_private() {
  if (!buffer_.defined()) {
    const torch::NoGradGuard no_grad;
    auto copy = buffers_.take(layout_.numel(), gathered_dtype_);
    copy.copy_(shared_);
    buffer_ = std::move(copy);
    set_contents(buffer_.data_ptr());
  }
}

void ShardedUnit::write_back() {
  if (!std::exchange(was_written_, false)) {
    return;
  }
  const torch::NoGradGuard no_grad;
  if (shared_.defined()) {
    owner_.before_write();
  }
  const auto written = layout_.shard_in(buffer_);
  if (gathered_dtype_ == shard_.scalar_type()) {
    shard_.copy_(written);
  } else {  // what was not written keeps its precision
    const auto is_as_before = (written == own_).to(shard_.device());
    shard_.copy_(torch::where(is_as_before, shard_, written.to(shard_.options())));
  }
  is_stale_ = true;
}

void ShardedUnit::show_segments() {
  if (shows_segments_) {
    return;
  }
  check_places();
  shows_segments_ = true;
  const Unguarded unguarded;
  release();
  drop_contents(freed_message_);
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto parameter = parameters_[i].second;
    parameter.set_data(segments_[i]);
    if (gradients_.has(i)) {
      parameter.mutable_grad() = gradients_.segment(i);
    }
  }
}

void ShardedUnit::hide_segments() {
  if (!std::exchange(shows_segments_, false)) {
    return;
  }
  for (const auto& [name, parameter] : parameters_) {
    parameter.mutable_grad().reset();
  }
  is_stale_ = true;
  show_views();
}

void ShardedUnit::show_views() {
  const Unguarded unguarded;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto parameter = parameters_[i].second;
    parameter.set_data(views_[i]);
  }
}

void ShardedUnit::show_plain() {
  const Unguarded unguarded;
  release();
  drop_contents(freed_message_);
  const torch::NoGradGuard no_grad;
  plain_ = torch::empty({layout_.numel()}, own_.options().dtype(shard_.dtype()));
  gathers_.all_gather(plain_, shard_.to(own_.device()));
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto parameter = parameters_[i].second;
    parameter.set_data(layout_.parameter_in(plain_, i));
  }
}

void ShardedUnit::hide_plain() {
  const torch::NoGradGuard no_grad;
  shard_.copy_(layout_.shard_in(plain_));
  plain_.reset();
  is_stale_ = true;
  show_views();
}

}  // namespace trainer
