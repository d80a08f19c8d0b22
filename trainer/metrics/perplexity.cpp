#include <trainer/metrics/perplexity.h>

#include <fmt/format.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

namespace trainer::metrics {

void Perplexity::update(const torch::Tensor& logits, const torch::Tensor& targets) {
  if (logits.dim() != 3 || targets.dim() != 2 || logits.size(0) != targets.size(0) ||
      logits.size(1) != targets.size(1)) {
    throw UsageError(
        fmt::format("Perplexity: logits of shape {} and targets of shape {}, not [batch, seq, "
                    "vocab] and [batch, seq].",
                    c10::str(logits.sizes()), c10::str(targets.sizes())));
  }
  const torch::NoGradGuard no_grad;
  auto counts = torch::ones_like(targets, torch::kBool);
  auto indices = targets;
  if (ignore_index_) {
    counts = targets != *ignore_index_;
    indices = targets.masked_fill(counts.logical_not(), 0);
  }
  const auto log_likelihood =
      logits.to(torch::kFloat32).log_softmax(-1).gather(-1, indices.unsqueeze(-1)).squeeze(-1);
  add({-log_likelihood.masked_fill(counts.logical_not(), 0).sum(torch::kFloat64), counts.sum()});
}

void Perplexity::update_mean(const torch::Tensor& loss, int64_t num_tokens) {
  const torch::NoGradGuard no_grad;
  const auto tokens = static_cast<double>(num_tokens);
  add({loss.detach().to(torch::kFloat64) * tokens,
       torch::full({}, tokens, loss.options().dtype(torch::kFloat64).requires_grad(false))});
}

torch::Tensor Perplexity::value(const std::vector<torch::Tensor>& state) const {
  return (state[0] / state[1]).exp();
}

}  // namespace trainer::metrics
