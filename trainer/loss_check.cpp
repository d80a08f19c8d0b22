#include <trainer/loss_check.h>

#include <cmath>
#include <string>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {

namespace {

/// Which tensors of the batch, or of its parts, are to blame, and which samples of them.
std::string describe_non_finite(const Batch& batch) {
  std::string text;
  for (size_t i = 0; i < batch.num_parts(); ++i) {
    text += describe_non_finite(batch.part(i));
  }
  for (size_t i = 0; i < batch.num_tensors(); ++i) {
    const auto& tensor = batch[i];
    if (!tensor.is_floating_point() || tensor.isfinite().all().item<bool>()) {
      continue;
    }
    const auto samples = tensor.dim() == 0 ? tensor.reshape({1, 1}) : tensor.flatten(1);
    const auto bad = samples.reshape({samples.size(0), -1}).isfinite().all(1).logical_not();
    const auto indices = bad.nonzero();
    text += fmt::format(
        " Tensor {} of the batch has NaN or infinite values in {} of {} samples, the first is "
        "sample {}: clean the data.",
        i, indices.size(0), samples.size(0), indices[0][0].item<int64_t>());
  }
  return text;
}

}  // namespace

void check_loss(const Module& module, const torch::Tensor& loss) {
  if (!loss.defined() || loss.numel() != 1) {
    throw UsageError(fmt::format(
        "{}::training_step() returned {}, not a loss of one element. Return loss.mean(), say.",
        class_name(module),
        loss.defined() ? fmt::format("a tensor of shape {}", c10::str(loss.sizes()))
                       : std::string("an undefined tensor")));
  }
  if (!loss.requires_grad()) {
    throw UsageError(fmt::format(
        "{}::training_step() returned a loss that does not depend on any parameter. Compute "
        "it from the module's layers, without detach() or NoGradGuard.",
        class_name(module)));
  }
}

void check_finite(const torch::Tensor& loss, const Batch& batch, const Progress& progress) {
  if (!loss.is_cpu() || loss.numel() != 1 || batch.size() == 0) {
    return;  // the mean over no sample is NaN, and counts nothing
  }
  const double value =
      loss.scalar_type() == at::kFloat ? *loss.const_data_ptr<float>() : loss.item().toDouble();
  if (std::isfinite(value)) {
    return;
  }
  const std::string inputs = describe_non_finite(batch);
  throw NonFiniteError(fmt::format(
      "the loss is {} at epoch {}, batch {}, after {} optimizer steps.{}\n  What was "
      "saved before is untouched. Clip gradients (trainer.gradient_clip_val; a resumed run takes "
      "it), or begin anew with a lower learning rate, or set trainer.check_finite_loss=false to go "
      "on regardless.",
      std::isnan(value) ? "NaN" : "infinite", progress.current_epoch, progress.batch_idx,
      progress.global_step, inputs.empty() ? " The batch itself is finite." : inputs));
}

}  // namespace trainer
