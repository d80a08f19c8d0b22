#include <strategies/distributed.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/world.h>

namespace trainer {
namespace {

/// Of parameters and buffers the names, shapes and dtypes, one line each.
std::string form_of(const torch::nn::Module& module) {
  std::string text;
  for (const auto& item : module.named_parameters()) {
    text += fmt::format("{} {} {}{}\n", item.key(), c10::str(item.value().sizes()),
                        c10::toString(item.value().scalar_type()),
                        item.value().requires_grad() ? "" : ", frozen");
  }
  for (const auto& item : module.named_buffers()) {
    text += fmt::format("{} {} {}\n", item.key(), c10::str(item.value().sizes()),
                        c10::toString(item.value().scalar_type()));
  }
  return text;
}

std::string first_difference(const std::string& a, const std::string& b) {
  const auto at = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
  const auto line = [&](const std::string& text) {
    const size_t begin = text.rfind('\n', static_cast<size_t>(at)) + 1;
    const auto found = text.substr(begin, text.find('\n', begin) - begin);
    return found.empty() ? std::string("no further parameter") : found;
  };
  return fmt::format("{}, against {}", line(a), line(b));
}

}  // namespace

void Distributed::set_device(torch::Device device) {
  SingleDevice::set_device(device);
  communicator_ = world_communicator(device.type());
}

void Distributed::setup_module(torch::nn::Module& module) {
  check_same_module(module);
  place(module);
  broadcast_buffers(module);
  sync_batch_norm_.reset();
  if (syncs_batchnorm_ && world_size() > 1) {
    sync_batch_norm_.emplace(communicator_->split(/*color=*/0));
  }
}

void Distributed::place(torch::nn::Module& module) {
  SingleDevice::setup_module(module);
  for (const auto& parameter : module.parameters()) {
    broadcast(parameter);
  }
}

/// In place, also where the tensor is not contiguous.
void Distributed::broadcast(const torch::Tensor& tensor) {
  const torch::NoGradGuard no_grad;
  if (tensor.is_contiguous()) {
    communicator_->broadcast(tensor);
    return;
  }
  const auto copy = tensor.contiguous();
  communicator_->broadcast(copy);
  tensor.detach().copy_(copy);
}

void Distributed::check_same_module(const torch::nn::Module& module) {
  const auto forms = world().all_gather(form_of(module));
  for (size_t r = 1; r < forms.size(); ++r) {
    if (forms[r] != forms[0]) {
      throw UsageError(fmt::format(
          "the modules of rank 0 and rank {} differ: {}. Build the same module on every rank.", r,
          first_difference(forms[0], forms[r])));
    }
  }
}

void Distributed::broadcast_buffers(torch::nn::Module& module) {
  for (const auto& buffer : module.buffers()) {
    broadcast(buffer);
  }
}

void Distributed::set_step_numbers(const StepNumbers& numbers) {
  numbers_ = numbers;
  sums_.reset();
}

void Distributed::set_step_number_sums(const StepNumbers& sums) { sums_ = sums; }

Strategy::StepNumbers Distributed::take_step_numbers() {
  if (!sums_) {
    auto numbers = torch::zeros({static_cast<int64_t>(numbers_.size())}, torch::kFloat64);
    std::copy(numbers_.begin(), numbers_.end(), numbers.mutable_data_ptr<double>());
    host_communicator().all_reduce(numbers);
    sums_.emplace();
    std::copy_n(numbers.const_data_ptr<double>(), numbers_.size(), sums_->begin());
  }
  return *sums_;
}

void Distributed::set_batch_counts(bool counts) {
  if (sync_batch_norm_) {
    sync_batch_norm_->set_counts(counts);
  }
}

/// Words between hosts need not wait for a GPU.
Communicator& Distributed::host_communicator() {
  if (device().is_cpu()) {
    return *communicator_;
  }
  if (!host_communicator_) {
    host_communicator_ = world_communicator(torch::kCPU);
  }
  return *host_communicator_;
}

void Distributed::all_reduce(torch::Tensor& tensor, ReduceOp op) {
  tensor = tensor.contiguous();
  communicator_->all_reduce(tensor, op);
}

torch::Tensor Distributed::all_gather(const torch::Tensor& tensor) {
  auto shape = tensor.sizes().vec();
  shape.insert(shape.begin(), world_size());
  auto rows = torch::empty(shape, tensor.options().requires_grad(false));
  communicator_->all_gather(rows, tensor.contiguous());
  return rows;
}

std::vector<std::string> Distributed::all_gather_text(const std::string& text) {
  return world().all_gather(text);
}

void Distributed::barrier() { communicator_->barrier(); }

}  // namespace trainer
