#include <strategies/ddp.h>

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/log.h>
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

/// In place, also where the tensor is not contiguous.
void broadcast(Communicator& communicator, const torch::Tensor& tensor) {
  const torch::NoGradGuard no_grad;
  if (tensor.is_contiguous()) {
    communicator.broadcast(tensor);
    return;
  }
  const auto copy = tensor.contiguous();
  communicator.broadcast(copy);
  tensor.detach().copy_(copy);
}

}  // namespace

DDP::DDP(Init init) : init_(std::move(init)) {}
DDP::~DDP() = default;

void DDP::set_device(torch::Device device) {
  SingleDevice::set_device(device);
  communicator_ = world_communicator(device.type());
  if (init_.comm_hook) {
    hook_ = init_.comm_hook->create();
  }
}

void DDP::setup_module(torch::nn::Module& module) {
  bucketer_.reset();
  SingleDevice::setup_module(module);
  check_same_module(module);
  for (const auto& parameter : module.parameters()) {
    broadcast(*communicator_, parameter);
  }
  broadcast_buffers(module);
  const double default_mb = device().is_cpu() ? 4 : 25;
  bucketer_ = std::make_unique<GradientBucketer>(
      module, *communicator_, hook_.get(),
      GradientBucketerOptions{
          .bucket_bytes = static_cast<int64_t>(init_.bucket_mb.value_or(default_mb) * 1048576),
          .static_graph = init_.static_graph});
  sync_batch_norm_.reset();
  if (syncs_batchnorm_ && world_size() > 1) {
    sync_batch_norm_.emplace(communicator_->split(/*color=*/0));
  }
  told_of_unused_ = false;
}

void DDP::check_same_module(const torch::nn::Module& module) {
  const auto forms = world().all_gather(form_of(module));
  for (size_t r = 1; r < forms.size(); ++r) {
    if (forms[r] != forms[0]) {
      throw UsageError(fmt::format(
          "DDP: the modules of rank 0 and rank {} differ: {}. Build the same module on every rank.",
          r, first_difference(forms[0], forms[r])));
    }
  }
}

void DDP::broadcast_buffers(torch::nn::Module& module) {
  for (const auto& buffer : module.buffers()) {
    broadcast(*communicator_, buffer);
  }
}

void DDP::require_gradient_sync(bool required) { bucketer_->set_eager(required); }

void DDP::finish_gradient_sync() {
  bucketer_->finish();
  if (const auto& sums = bucketer_->step_number_sums()) {
    numbers_ = *sums;
    numbers_rode_ = true;
  }
  tell_of_unused();
}

/// Once, as it may be meant.
void DDP::tell_of_unused() {
  if (bucketer_->unused().empty() || told_of_unused_ || init_.static_graph) {
    return;
  }
  told_of_unused_ = true;
  constexpr size_t kShown = 8;
  const auto& unused = bucketer_->unused();
  const std::vector<std::string> first(
      unused.begin(), unused.begin() + static_cast<int64_t>(std::min(kShown, unused.size())));
  log::warning(fmt::format(
      "DDP: {} got no gradient on any rank in this step: {}{}. Where that is so in every step, "
      "freeze them (requires_grad_(false)) or set static_graph: others need not wait for them then",
      unused.size() == 1 ? "a parameter" : fmt::format("{} parameters", unused.size()),
      fmt::join(first, ", "), unused.size() > kShown ? ", ..." : ""));
}

void DDP::set_step_numbers(const StepNumbers& numbers) {
  numbers_ = numbers;
  numbers_rode_ = false;
  bucketer_->set_step_numbers(numbers);
}

Strategy::StepNumbers DDP::take_step_numbers() {
  if (!numbers_rode_) {
    auto numbers = torch::zeros({static_cast<int64_t>(numbers_.size())}, torch::kFloat64);
    std::copy(numbers_.begin(), numbers_.end(), numbers.mutable_data_ptr<double>());
    host_communicator().all_reduce(numbers);
    std::copy_n(numbers.const_data_ptr<double>(), numbers_.size(), numbers_.begin());
    numbers_rode_ = true;
  }
  return numbers_;
}

void DDP::set_batch_counts(bool counts) {
  if (sync_batch_norm_) {
    sync_batch_norm_->set_counts(counts);
  }
}

/// Words between hosts need not wait for a GPU.
Communicator& DDP::host_communicator() {
  if (device().is_cpu()) {
    return *communicator_;
  }
  if (!host_communicator_) {
    host_communicator_ = world_communicator(torch::kCPU);
  }
  return *host_communicator_;
}

void DDP::all_reduce(torch::Tensor& tensor, ReduceOp op) {
  tensor = tensor.contiguous();
  communicator_->all_reduce(tensor, op);
}

torch::Tensor DDP::all_gather(const torch::Tensor& tensor) {
  auto shape = tensor.sizes().vec();
  shape.insert(shape.begin(), world_size());
  auto rows = torch::empty(shape, tensor.options().requires_grad(false));
  communicator_->all_gather(rows, tensor.contiguous());
  return rows;
}

std::vector<std::string> DDP::all_gather_text(const std::string& text) {
  return world().all_gather(text);
}

void DDP::barrier() { communicator_->barrier(); }

}  // namespace trainer
