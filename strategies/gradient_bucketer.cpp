#include <strategies/gradient_bucketer.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {

/// LibTorch calls it when a parameter's gradient of a backward pass is final.
class GradientBucketer::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientBucketer& bucketer, size_t index) : bucketer_(bucketer), index_(index) {}
  void operator()(const torch::Tensor&) override { bucketer_.on_gradient(index_); }

 private:
  GradientBucketer& bucketer_;
  const size_t index_;
};

GradientBucketer::GradientBucketer(torch::nn::Module& module, Communicator& communicator,
                                   CommHook* hook, GradientBucketerOptions options)
    : module_(module), communicator_(communicator), hook_(hook), options_(options) {
  add_parameters();
}

GradientBucketer::~GradientBucketer() {
  for (auto& parameter : parameters_) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter.tensor, nullptr);
  }
}

void GradientBucketer::add_parameters() {
  const size_t before = parameters_.size();
  for (const auto& item : module_.named_parameters()) {
    const auto& tensor = item.value();
    const bool is_new = tensor.requires_grad() &&
                        known_.emplace(tensor.unsafeGetTensorImpl(), parameters_.size()).second;
    if (is_new) {
      torch::autograd::impl::set_post_acc_grad_hooks(
          tensor, std::make_unique<Hook>(*this, parameters_.size()));
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
    learned_ = false;
    arrivals_.clear();
  }
}

void GradientBucketer::lay_out(const std::vector<size_t>& order) {
  const torch::NoGradGuard no_grad;
  buckets_.clear();
  int64_t bytes = 0;
  for (const size_t index : order) {
    const auto& tensor = parameters_[index].tensor;
    const auto size = static_cast<int64_t>(tensor.nbytes());
    const bool fits = !buckets_.empty() && bytes + size <= options_.bucket_bytes &&
                      parameters_[buckets_.back().parameters.front()].tensor.scalar_type() ==
                          tensor.scalar_type();
    if (!fits) {
      buckets_.emplace_back();
      bytes = 0;
    }
    bytes += size;
    buckets_.back().parameters.push_back(index);
  }
  for (size_t b = 0; b < buckets_.size(); ++b) {
    Bucket& bucket = buckets_[b];
    for (const size_t index : bucket.parameters) {
      bucket.num_gradients += parameters_[index].numel;
    }
    const auto count = static_cast<int64_t>(bucket.parameters.size());
    const auto& first = parameters_[bucket.parameters.front()].tensor;
    const auto numbers = static_cast<int64_t>(step_numbers_.size());
    bucket.flat = torch::zeros({bucket.num_gradients + count + numbers},
                               first.options().requires_grad(false));
    int64_t begin = 0;
    for (size_t i = 0; i < bucket.parameters.size(); ++i) {
      auto& parameter = parameters_[bucket.parameters[i]];
      parameter.bucket = b;
      parameter.index = i;
      // No view in autograd's eyes, which Optimizer::zero_grad() could not detach.
      parameter.slot = bucket.flat.narrow(0, begin, parameter.numel)
                           .view(parameter.tensor.sizes())
                           .variable_data();
      begin += parameter.numel;
      bucket.of_hook.slots.push_back(parameter.slot);
    }
    bucket.of_hook.flat = bucket.flat.narrow(0, 0, bucket.num_gradients);
    bucket.of_hook.index = b;
  }
  if (hook_ != nullptr) {
    hook_->forget_buckets();
  }
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
  if (!eager || begun_) {
    return;
  }
  const auto all = module_.parameters();
  const bool is_known = std::all_of(all.begin(), all.end(), [&](const torch::Tensor& parameter) {
    return !parameter.requires_grad() || known_.contains(parameter.unsafeGetTensorImpl());
  });
  if (!is_known) {
    add_parameters();
  } else if (!learned_ && !arrivals_.empty()) {
    lay_out_as_they_came();
  }
}

/// Whether the bucket takes part now: ranks agree on what is frozen for the moment (toggle()).
bool GradientBucketer::is_reduced(const Bucket& bucket) const {
  return std::any_of(bucket.parameters.begin(), bucket.parameters.end(),
                     [&](size_t index) { return parameters_[index].tensor.requires_grad(); });
}

/// Of a step's reduction: at its first gradient, or in finish().
void GradientBucketer::begin() {
  begun_ = true;
  next_ = 0;
  for (auto& bucket : buckets_) {
    bucket.is_started = false;
    bucket.missing = 0;
    for (const size_t index : bucket.parameters) {
      auto& parameter = parameters_[index];
      parameter.is_in = false;
      bucket.missing += parameter.is_expected && parameter.tensor.requires_grad() ? 1 : 0;
    }
    if (is_reduced(bucket)) {
      last_ = static_cast<size_t>(&bucket - buckets_.data());
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
  if (!learned_) {
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

/// Copies the gradient into its bucket, and makes it a view of that.
void GradientBucketer::put_in(Parameter& parameter) {
  const torch::NoGradGuard no_grad;
  auto& gradient = parameter.tensor.mutable_grad();
  if (gradient.layout() != torch::kStrided) {
    throw UsageError(fmt::format(
        "DDP: the gradient of '{}' is sparse, which is not reduced over ranks. Build the embedding "
        "with sparse(false).",
        parameter.name));
  }
  if (gradient.data_ptr() != parameter.slot.data_ptr()) {
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
    if (!parameter.is_in) {
      // Its slot counts for nothing; a gradient that lies there from an earlier step moves out.
      auto& gradient = parameter.tensor.mutable_grad();
      if (gradient.defined() && gradient.data_ptr() == parameter.slot.data_ptr()) {
        gradient = gradient.clone();
      }
      parameter.slot.zero_();
    }
  }
  fill_tail(bucket);
  if (hook_ == nullptr) {
    bucket.work = communicator_.all_reduce_async(bucket.flat, ReduceOp::kMean);
  } else {
    bucket.work = communicator_.all_reduce_async(bucket.tail(), ReduceOp::kMean);
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
  if (options_.static_graph && !is_first_) {
    check_static_graph();
  }
  for (auto& bucket : buckets_) {
    bucket.missing = 0;
  }
  start_ready_buckets();
  unused_.clear();
  sums_.reset();
  for (auto& bucket : buckets_) {
    if (bucket.is_started) {
      complete(bucket);
    }
  }
  if (!buckets_.empty() && buckets_[last_].is_started &&
      communicator_.device_type() == torch::kCPU) {
    read_step_numbers(buckets_[last_]);
  }
  if (!was_eager) {
    unused_.clear();  // another backward pass may still bring it
  }
  begun_ = false;
  is_first_ = false;
}

/// What follows the gradients in a bucket: for each parameter 1 where it has one, step numbers.
void GradientBucketer::fill_tail(const Bucket& bucket) {
  const auto tail = bucket.tail();
  auto values = torch::zeros({tail.numel()}, torch::kFloat64);
  double* next = values.mutable_data_ptr<double>();
  for (const size_t index : bucket.parameters) {
    *next++ = parameters_[index].is_in ? 1 : 0;
  }
  if (&bucket == &buckets_[last_]) {
    std::copy(step_numbers_.begin(), step_numbers_.end(), next);
  }
  tail.copy_(values);
}

void GradientBucketer::read_step_numbers(const Bucket& bucket) {
  const auto means = bucket.tail().to(torch::kFloat64);
  sums_.emplace();
  const auto begin = static_cast<int64_t>(bucket.parameters.size());
  for (size_t i = 0; i < sums_->size(); ++i) {
    (*sums_)[i] =
        means.const_data_ptr<double>()[begin + static_cast<int64_t>(i)] * communicator_.size();
  }
}

void GradientBucketer::complete(Bucket& bucket) {
  bucket.work.wait();
  bucket.work = Work();
  if (bucket.reduction) {
    bucket.reduction->finish();
    bucket.reduction.reset();
  }
  torch::Tensor used;
  for (const size_t index : bucket.parameters) {
    auto& parameter = parameters_[index];
    parameter.has_new = false;
    if (parameter.is_in) {
      continue;
    }
    if (!used.defined()) {
      used = bucket.tail().to(torch::kFloat32).to(torch::kCPU);
    }
    if (used.const_data_ptr<float>()[parameter.index] > 0) {
      parameter.tensor.mutable_grad() = parameter.slot;  // another rank used it
    } else if (parameter.tensor.requires_grad()) {
      unused_.push_back(parameter.name);
      parameter.is_expected = !options_.static_graph;
    }
  }
}

void GradientBucketer::check_static_graph() const {
  for (const auto& parameter : parameters_) {
    if (parameter.is_expected && !parameter.is_in && parameter.tensor.requires_grad()) {
      throw UsageError(fmt::format(
          "DDP: '{}' got no gradient, which it did in the first step; static_graph is true. Turn "
          "static_graph off, or let every step use the same parameters.",
          parameter.name));
    }
  }
}

}  // namespace trainer
