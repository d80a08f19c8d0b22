#include <strategies/gradient_bucketer.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <strategies/gradient_hook.h>
#include <trainer/core/error.h>

namespace trainer {

GradientBucketer::GradientBucketer(torch::nn::Module& module, Communicator& communicator,
                                   CommHook* hook, GradientBucketerOptions options)
    : module_(module), communicator_(communicator), hook_(hook), options_(options) {
  add_parameters();
}

GradientBucketer::~GradientBucketer() {
  for (auto& parameter : parameters_) {
    set_gradient_hook(parameter.tensor, nullptr);
  }
}

void GradientBucketer::add_parameters() {
  const size_t before = parameters_.size();
  for (const auto& item : module_.named_parameters()) {
    const auto& tensor = item.value();
    const bool is_new = tensor.requires_grad() &&
                        known_.emplace(tensor.unsafeGetTensorImpl(), parameters_.size()).second;
    if (is_new) {
      set_gradient_hook(tensor, [this, index = parameters_.size()] { on_gradient(index); });
      Parameter parameter;
      parameter.name = item.key();
      parameter.tensor = tensor;
      parameter.numel = tensor.numel();
      parameter.has_new = tensor.grad().defined();
      parameters_.push_back(std::move(parameter));
    }
  }
  if (parameters_.size() > before) {
    // Until it is known better: gradients come in the reverse order of the layers.
    std::vector<size_t> order(parameters_.size());
    std::iota(order.rbegin(), order.rend(), 0);
    lay_out(order);
    learned_ = saw_eager_pass_ = false;
    arrivals_.clear();
  }
}

void GradientBucketer::lay_out(const std::vector<size_t>& order) {
  const torch::NoGradGuard no_grad;
  buckets_.clear();
  // A hook has its own ways with memory.
  const bool takes_any_memory = hook_ == nullptr && !communicator_.prefers_own_memory();
  const int64_t in_place_bytes =
      takes_any_memory ? options_.bucket_bytes / 4 : std::numeric_limits<int64_t>::max();
  std::vector<size_t> group;
  int64_t bytes = 0;
  for (const size_t index : order) {
    const auto& tensor = parameters_[index].tensor;
    const auto size = static_cast<int64_t>(tensor.nbytes());
    // The last bucket is one that can carry the tail.
    if (size >= in_place_bytes && (index != order.back() || !group.empty())) {
      add_bucket({index}, /*is_in_place=*/true);
      continue;
    }
    const bool fits =
        group.empty() || (bytes + size <= options_.bucket_bytes &&
                          parameters_[group.front()].tensor.scalar_type() == tensor.scalar_type());
    if (!fits) {
      add_bucket(std::exchange(group, {}), /*is_in_place=*/false);
      bytes = 0;
    }
    group.push_back(index);
    bytes += size;
  }
  if (!group.empty()) {
    add_bucket(std::move(group), /*is_in_place=*/false);
  }
  if (hook_ != nullptr) {
    hook_->forget_buckets();
  }
}

void GradientBucketer::add_bucket(std::vector<size_t> parameters, bool is_in_place) {
  Bucket bucket;
  bucket.parameters = std::move(parameters);
  bucket.is_in_place = is_in_place;
  int64_t num_gradients = 0;
  for (const size_t index : bucket.parameters) {
    parameters_[index].bucket = buckets_.size();
    parameters_[index].slot.reset();
    num_gradients += parameters_[index].numel;
  }
  if (!is_in_place) {
    const auto tail_size = static_cast<int64_t>(parameters_.size() + step_numbers_.size());
    const auto dtype = parameters_[bucket.parameters.front()].tensor.scalar_type();
    bucket.flat = communicator_.empty({num_gradients + tail_size}, dtype).zero_();
    bucket.tail = bucket.flat.narrow(0, num_gradients, tail_size);
    bucket.of_hook = {bucket.flat.narrow(0, 0, num_gradients), {}, buckets_.size()};
    int64_t begin = 0;
    for (const size_t index : bucket.parameters) {
      auto& parameter = parameters_[index];
      // No view in autograd's eyes, which Optimizer::zero_grad() could not detach.
      parameter.slot = bucket.flat.narrow(0, begin, parameter.numel)
                           .view(parameter.tensor.sizes())
                           .variable_data();
      begin += parameter.numel;
      bucket.of_hook.slots.push_back(parameter.slot);
    }
  }
  buckets_.push_back(std::move(bucket));
}

/// In the order of rank 0's first pass, and at the end those that got no gradient.
void GradientBucketer::lay_out_as_they_came() {
  std::vector<bool> came(parameters_.size());
  for (const size_t index : arrivals_) {
    came[index] = true;
  }
  for (size_t i = parameters_.size(); i-- > 0;) {
    if (!came[i]) {
      arrivals_.push_back(i);
    }
  }
  std::vector<int64_t> numbers(arrivals_.begin(), arrivals_.end());
  auto order = torch::tensor(numbers, torch::kInt64);
  order = order.to(parameters_.front().tensor.device());
  communicator_.broadcast(order);
  order = order.to(torch::kCPU);
  lay_out({order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + order.numel()});
  learned_ = true;
  arrivals_.clear();
}

void GradientBucketer::set_eager(bool eager) {
  eager_ = eager;
  if (begun_) {
    return;
  }
  const auto all = module_.parameters();
  const bool is_known = std::all_of(all.begin(), all.end(), [&](const torch::Tensor& parameter) {
    return !parameter.requires_grad() || known_.contains(parameter.unsafeGetTensorImpl());
  });
  if (!is_known) {
    add_parameters();
  } else if (eager && !learned_ && saw_eager_pass_) {
    lay_out_as_they_came();
  }
}

/// Whether the bucket takes part now: ranks agree on what is frozen for the moment (toggle()).
bool GradientBucketer::is_reduced(const Bucket& bucket) const {
  return std::any_of(bucket.parameters.begin(), bucket.parameters.end(),
                     [&](size_t index) { return parameters_[index].tensor.requires_grad(); });
}

/// Step numbers need more than the digits of a short format.
bool GradientBucketer::can_carry(const Bucket& bucket) {
  return !bucket.is_in_place && (bucket.flat.scalar_type() == torch::kFloat32 ||
                                 bucket.flat.scalar_type() == torch::kFloat64);
}

/// Of a step's reduction: at its first gradient, or in finish().
void GradientBucketer::begin() {
  begun_ = true;
  next_ = 0;
  carrier_ = nullptr;
  for (auto& bucket : buckets_) {
    bucket.is_started = false;
    bucket.missing = 0;
    for (const size_t index : bucket.parameters) {
      auto& parameter = parameters_[index];
      parameter.is_in = false;
      bucket.missing += parameter.is_expected && parameter.tensor.requires_grad() ? 1 : 0;
    }
    if (is_reduced(bucket)) {
      carrier_ = can_carry(bucket) ? &bucket : nullptr;
    }
  }
}

void GradientBucketer::on_gradient(size_t index) {
  Parameter& parameter = parameters_[index];
  parameter.has_new = true;
  if (!eager_) {
    return;
  }
  if (!begun_) {
    begin();
  }
  if (!learned_ && !parameter.is_in) {
    arrivals_.push_back(index);
  }
  Bucket& bucket = buckets_[parameter.bucket];
  if (bucket.is_started && parameter.is_in) {
    throw UsageError(fmt::format(
        "DDP: '{}' got a second gradient after the first one had gone off to the other ranks. Run "
        "one backward pass a step, or several with manual optimization.",
        parameter.name));
  }
  if (bucket.is_started) {
    throw UsageError(fmt::format(
        "DDP: '{}' got a gradient that it did not get in the first step, which static_graph "
        "excludes. Turn static_graph off.",
        parameter.name));
  }
  bucket.missing -= parameter.is_expected && !parameter.is_in ? 1 : 0;
  put_in(parameter);
  start_ready_buckets();
  communicator_.poll();
}

/// Copies the gradient into its bucket, and makes it a view of that; or takes it as the bucket.
void GradientBucketer::put_in(Parameter& parameter) {
  const torch::NoGradGuard no_grad;
  auto& gradient = parameter.tensor.mutable_grad();
  check_dense("DDP", parameter.name, gradient);
  if (buckets_[parameter.bucket].is_in_place) {
    // It may be the memory of another gradient, from which the backward pass still reads: that of a
    // parameter of which a view was used is.
    if (!gradient.is_contiguous() || gradient.storage().use_count() > 1) {
      gradient = gradient.clone(at::MemoryFormat::Contiguous);
    }
    parameter.slot = gradient;
  } else if (gradient.data_ptr() != parameter.slot.data_ptr()) {
    if (gradient.is_cpu() && gradient.is_contiguous()) {
      std::memcpy(parameter.slot.mutable_data_ptr(), gradient.const_data_ptr(), gradient.nbytes());
    } else {
      parameter.slot.copy_(gradient);
    }
    gradient = parameter.slot;
  }
  parameter.is_in = true;
}

/// In their order, which is the same on all ranks.
void GradientBucketer::start_ready_buckets() {
  while (next_ < buckets_.size() && buckets_[next_].missing == 0) {
    if (is_reduced(buckets_[next_])) {
      start(buckets_[next_]);
    }
    ++next_;
  }
}

void GradientBucketer::start(Bucket& bucket) {
  const torch::NoGradGuard no_grad;
  bucket.is_started = true;
  for (const size_t index : bucket.parameters) {
    auto& parameter = parameters_[index];
    if (parameter.is_in) {
      continue;
    }
    // It counts for nothing; a gradient that lies in its slot from an earlier step moves out.
    auto& gradient = parameter.tensor.mutable_grad();
    if (bucket.is_in_place) {
      parameter.slot = torch::zeros_like(parameter.tensor, at::MemoryFormat::Contiguous);
    } else {
      if (gradient.defined() && gradient.data_ptr() == parameter.slot.data_ptr()) {
        gradient = gradient.clone();
      }
      parameter.slot.zero_();
    }
  }
  if (&bucket == carrier_) {
    fill_tail(bucket.tail);
  }
  if (bucket.is_in_place) {
    bucket.work = communicator_.all_reduce_async(parameters_[bucket.parameters.front()].slot,
                                                 ReduceOp::kMean);
  } else if (hook_ == nullptr) {
    bucket.work = communicator_.all_reduce_async(bucket.flat, ReduceOp::kMean);
  } else {
    if (&bucket == carrier_) {
      bucket.work = communicator_.all_reduce_async(bucket.tail, ReduceOp::kMean);
    }
    bucket.reduction = hook_->start(communicator_, bucket.of_hook);
  }
}

void GradientBucketer::finish() {
  const bool was_eager = std::exchange(eager_, false);
  if (!begun_) {
    begin();
  }
  for (auto& parameter : parameters_) {
    if (parameter.has_new && !parameter.is_in && parameter.tensor.grad().defined()) {
      put_in(parameter);
    }
  }
  if (options_.static_graph) {
    check_static_graph();
  }
  for (auto& bucket : buckets_) {
    bucket.missing = 0;
  }
  start_ready_buckets();
  unused_.clear();
  sums_.reset();
  if (std::any_of(buckets_.begin(), buckets_.end(), [](auto& one) { return one.is_started; })) {
    Work tail_work;
    torch::Tensor tail = carrier_ != nullptr ? carrier_->tail : own_tail();
    if (carrier_ == nullptr) {
      fill_tail(tail);
      tail_work = communicator_.all_reduce_async(tail, ReduceOp::kMean);
    }
    for (auto& bucket : buckets_) {
      bucket.work.wait();
      bucket.work = Work();
      if (bucket.reduction) {
        std::exchange(bucket.reduction, nullptr)->finish();
      }
    }
    tail_work.wait();
    settle(tail);
  }
  if (!was_eager) {
    unused_.clear();  // another backward pass may still bring it
  }
  begun_ = false;
  saw_eager_pass_ |= was_eager;
}

torch::Tensor GradientBucketer::own_tail() const {
  const auto size = static_cast<int64_t>(parameters_.size() + step_numbers_.size());
  return torch::zeros({size},
                      torch::dtype(torch::kFloat64).device(parameters_.front().tensor.device()));
}

/// 1 for each parameter that has a gradient, 0 for the others, and the step numbers.
void GradientBucketer::fill_tail(const torch::Tensor& tail) const {
  auto values = torch::empty({tail.numel()}, torch::kFloat64);
  double* next = values.mutable_data_ptr<double>();
  for (const auto& parameter : parameters_) {
    *next++ = parameter.is_in ? 1 : 0;
  }
  std::copy(step_numbers_.begin(), step_numbers_.end(), next);
  tail.copy_(values);
}

/// Gives every parameter what it gets: all buckets are reduced.
void GradientBucketer::settle(const torch::Tensor& tail) {
  torch::Tensor means;  // of the tail: a GPU is asked for it only where it matters
  const auto mean = [&](size_t index) {
    if (!means.defined()) {
      means = tail.to(torch::kFloat64).to(torch::kCPU);
    }
    return means.const_data_ptr<double>()[index];
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    auto& parameter = parameters_[i];
    if (!buckets_[parameter.bucket].is_started) {
      continue;
    }
    parameter.has_new = false;
    parameter.was_reduced |= parameter.tensor.requires_grad();
    if (!parameter.is_in && mean(i) > 0) {
      parameter.tensor.mutable_grad() = parameter.slot;  // another rank used it
    } else if (!parameter.is_in && parameter.tensor.requires_grad()) {
      unused_.push_back(parameter.name);
      parameter.is_expected = !options_.static_graph;
    }
    if (buckets_[parameter.bucket].is_in_place) {
      parameter.slot.reset();  // the gradient lives as long as the optimizer wants
    }
  }
  if (communicator_.device_type() == torch::kCPU) {
    sums_.emplace();
    for (size_t i = 0; i < sums_->size(); ++i) {
      (*sums_)[i] = mean(parameters_.size() + i) * communicator_.size();
    }
  }
}

void GradientBucketer::check_static_graph() const {
  for (const auto& parameter : parameters_) {
    if (parameter.was_reduced && parameter.is_expected && !parameter.is_in &&
        parameter.tensor.requires_grad()) {
      throw UsageError(fmt::format(
          "DDP: '{}' got no gradient, which it did in the first step; static_graph is true. Turn "
          "static_graph off, or let every step use the same parameters.",
          parameter.name));
    }
  }
}

}  // namespace trainer
