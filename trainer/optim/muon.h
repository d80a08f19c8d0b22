#pragma once
// Muon: momentum whose update of each weight matrix is made orthogonal. For the matrices of hidden
// layers; embeddings, heads, biases and norms belong to another optimizer, AdamW for instance.

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <torch/optim/optimizer.h>

#include <trainer/optim/multi_tensor.h>
#include <trainer/optim/whole_tensors.h>

namespace trainer::optim {

/// A group takes all of the options it is given, none of the defaults.
struct MuonOptions : public torch::optim::OptimizerCloneableOptions<MuonOptions> {
  MuonOptions(double lr = 1e-3) : lr_(lr) {}  // NOLINT: implicit as for LibTorch's options
  using Coefficients = std::tuple<double, double, double>;
  TORCH_ARG(double, lr);
  TORCH_ARG(double, weight_decay) = 0.1;
  TORCH_ARG(double, momentum) = 0.95;
  TORCH_ARG(bool, nesterov) = true;
  /// Of the quintic polynomial of the Newton-Schulz iteration.
  TORCH_ARG(Coefficients, ns_coefficients) = {3.4445, -4.7750, 2.0315};
  TORCH_ARG(double, eps) = 1e-7;
  TORCH_ARG(int64_t, ns_steps) = 5;
  /// How the learning rate depends on the shape [rows, columns]: "original" times
  /// sqrt(max(1, rows / columns)), "match_rms_adamw" times 0.2 sqrt(max(rows, columns)), which
  /// suits AdamW's learning rates, "spectral_unclamped" times sqrt(rows / columns).
  TORCH_ARG(std::string, adjust_lr_fn) = "original";

 public:
  double get_lr() const override { return lr_; }
  void set_lr(double value) override { lr_ = value; }
};

/// Equals torch.optim.Muon of PyTorch 2.15: the iteration runs in bfloat16, weight decay is
/// decoupled.
/// Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; match_rms_adamw: Liu et
/// al. 2025, arXiv:2502.16982.
class Muon : public MultiTensorOptimizer, public UsesWholeTensors {
 public:
  /// Throws UsageError for a parameter without exactly two dimensions, a negative learning rate,
  /// weight decay, momentum or eps, momentum above 1, ns_steps outside of 0 to 99, an unknown
  /// adjust_lr_fn, and a group with the options of another optimizer.
  explicit Muon(std::vector<torch::Tensor> parameters, MuonOptions options = MuonOptions());
  explicit Muon(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                MuonOptions defaults = MuonOptions());

 private:
  void update(detail::TensorLists& lists, const torch::optim::OptimizerOptions& options) override;
};

}  // namespace trainer::optim
