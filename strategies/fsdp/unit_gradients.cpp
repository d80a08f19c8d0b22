#include <strategies/fsdp/unit_gradients.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include <torch/utils.h>

#include <strategies/gradient_hook.h>

namespace trainer {

UnitGradients::UnitGradients(const UnitLayout& layout, const Parameters& parameters,
                             torch::TensorOptions kept, ReductionWays ways)
    : layout_(layout),
      parameters_(parameters),
      kept_(kept),
      ways_(ways),
      states_(parameters_.size()) {}

bool UnitGradients::wants_any() const {
  return std::any_of(parameters_.begin(), parameters_.end(),
                     [](const auto& item) { return item.second.requires_grad(); });
}

bool UnitGradients::wants_all() const {
  return std::all_of(parameters_.begin(), parameters_.end(),
                     [](const auto& item) { return item.second.requires_grad(); });
}

void UnitGradients::begin_pass() {
  num_missing_ = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    states_[i].arrived = false;
    num_missing_ += parameters_[i].second.requires_grad() ? 1 : 0;
  }
}

void UnitGradients::add(size_t index) {
  const torch::NoGradGuard no_grad;
  const auto& [name, parameter] = parameters_[index];
  auto& state = states_[index];
  auto& gradient = parameter.mutable_grad();
  check_dense("FSDP", name, gradient);
  take_sum();
  if (std::exchange(state.is_in_sum, true)) {
    layout_.parameter_in(sum_, index).add_(gradient);
  } else if (gradient.is_cpu() && gradient.is_contiguous() &&
             gradient.scalar_type() == ways_.dtype) {  // without the operators' price
    auto* const whole = static_cast<std::byte*>(sum_.mutable_data_ptr());
    std::memcpy(whole + layout_.begin(index) * gradient.element_size(), gradient.const_data_ptr(),
                gradient.nbytes());
  } else {
    layout_.parameter_in(sum_, index).copy_(gradient);
  }
  num_missing_ -= std::exchange(state.arrived, true) ? 0 : 1;
  gradient.reset();
}

void UnitGradients::take_sum() {
  if (!sum_.defined()) {
    sum_ = ways_.buffers.take(layout_.numel(), ways_.dtype);
  }
}

/// Whether a reduction can write to the mean.
bool UnitGradients::can_receive() const {
  return kept_.dtype() == ways_.dtype && kept_.device().type() == ways_.shard.device_type();
}

void UnitGradients::start_reduction() {
  const torch::NoGradGuard no_grad;
  take_sum();
  for (size_t i = 0; i < states_.size(); ++i) {
    if (!states_[i].is_in_sum) {
      layout_.parameter_in(sum_, i).zero_();
    }
  }
  if (!mean_.defined()) {
    mean_ = can_receive() ? ways_.shard.empty({layout_.shard_numel()}, ways_.dtype)
                          : torch::empty({layout_.shard_numel()}, kept_);
    for (size_t i = 0; i < states_.size(); ++i) {
      segments_.push_back(layout_.segment_in(mean_, i));
    }
  }
  // Ranks need not agree on which parameters have a gradient, so it is not asked for.
  const bool is_first = std::all_of(states_.begin(), states_.end(),
                                    [](const State& state) { return state.is_cleared; });
  if (!is_first || !can_receive()) {
    for (size_t i = 0; i < states_.size(); ++i) {
      if (states_[i].is_cleared) {
        segments_[i].zero_();
      }
    }
    reduced_ = ways_.buffers.take(layout_.shard_numel(), ways_.dtype);
  }
  work_ = ways_.shard.reduce_scatter_async(received(), sum_, ReduceOp::kMean);
}

bool UnitGradients::reduction_is_done() {
  if (!work_.is_done()) {
    return false;
  }
  go_on_to_replicas();
  return work_.is_done();
}

/// Once the slice is that of this rank's line.
void UnitGradients::go_on_to_replicas() {
  if (ways_.replicas != nullptr && !std::exchange(is_at_replicas_, true)) {
    work_ = ways_.replicas->all_reduce_async(received(), ReduceOp::kMean);
  }
}

void UnitGradients::finish_reduction() {
  work_.wait();
  go_on_to_replicas();
  work_.wait();
  work_ = Work();
  is_at_replicas_ = false;
  if (reduced_.defined()) {
    const torch::NoGradGuard no_grad;
    mean_.add_(reduced_.to(mean_.device()));
    ways_.buffers.give_back(reduced_);
  }
  for (auto& state : states_) {
    state.has |= state.is_in_sum;
    state.is_cleared = false;
  }
  drop();
}

void UnitGradients::drop() {
  if (sum_.defined()) {
    ways_.buffers.give_back(sum_);
  }
  for (auto& state : states_) {
    state.is_in_sum = false;
  }
}

void UnitGradients::forget() {
  for (size_t i = 0; i < states_.size(); ++i) {
    clear(i);
  }
  segments_.clear();
  mean_.reset();
}

void UnitGradients::clear(size_t index) {
  parameters_[index].second.mutable_grad().reset();
  states_[index].has = false;
  states_[index].is_in_sum = false;
  states_[index].is_cleared = true;
}

}  // namespace trainer
