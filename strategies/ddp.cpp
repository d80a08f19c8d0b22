#include <strategies/ddp.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/log.h>

namespace trainer {

DDP::DDP(Init init) : init_(std::move(init)) {}
DDP::~DDP() = default;

void DDP::set_device(torch::Device device) {
  Distributed::set_device(device);
  if (init_.comm_hook) {
    hook_ = init_.comm_hook->create();
  }
}

void DDP::setup_module(torch::nn::Module& module) {
  bucketer_.reset();
  Distributed::setup_module(module);
  const double default_mb = device().is_cpu() ? 4 : 25;
  bucketer_ = std::make_unique<GradientBucketer>(
      module, communicator(), hook_.get(),
      GradientBucketerOptions{
          .bucket_bytes = static_cast<int64_t>(init_.bucket_mb.value_or(default_mb) * 1048576),
          .static_graph = init_.static_graph});
  told_of_unused_ = false;
}

void DDP::require_gradient_sync(bool required) { bucketer_->set_eager(required); }

void DDP::finish_gradient_sync() {
  bucketer_->finish();
  if (const auto& sums = bucketer_->step_number_sums()) {
    set_step_number_sums(*sums);
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
  Distributed::set_step_numbers(numbers);
  bucketer_->set_step_numbers(numbers);
}

}  // namespace trainer
