#include <strategies/gradient_hook.h>

#include <memory>
#include <utility>

#include <fmt/format.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

class Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit Hook(std::function<void()> action) : action_(std::move(action)) {}
  void operator()(const torch::Tensor&) override { action_(); }

 private:
  const std::function<void()> action_;
};

}  // namespace

void set_gradient_hook(const torch::Tensor& parameter, std::function<void()> action) {
  torch::autograd::impl::set_post_acc_grad_hooks(
      parameter, action ? std::make_unique<Hook>(std::move(action)) : nullptr);
}

void check_dense(const char* strategy, const std::string& parameter,
                 const torch::Tensor& gradient) {
  if (gradient.layout() != torch::kStrided) {
    throw UsageError(fmt::format(
        "{}: the gradient of '{}' is sparse, which is not reduced over ranks. Build the embedding "
        "with sparse(false).",
        strategy, parameter));
  }
}

}  // namespace trainer
