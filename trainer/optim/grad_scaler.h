#pragma once
// Scales the loss so that small gradients survive float16, takes the scale out of the gradients
// again, and skips the steps in which a gradient overflowed. The trainer uses it for 16-mixed; in a
// loop of your own:
//
//   GradScaler scaler(device);
//   scaler.scale(loss).backward();
//   scaler.step(optimizer);
//   scaler.update();
//
// Scale and flags stay on the device; step() says where it waits for one. Source:
// Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2; semantics of torch.amp.GradScaler.

#include <cstdint>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

namespace trainer {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;     ///< Of the scale, after growth_interval steps without overflow.
  double backoff_factor = 0.5;  ///< Of the scale, after an overflow.
  int64_t growth_interval = 2000;
};

class GradScaler {
 public:
  /// Throws UsageError for options out of range. `device`: where the parameters are.
  explicit GradScaler(torch::Device device, GradScalerOptions options = {});

  /// loss * scale, a float32 scalar. Syncs: no.
  torch::Tensor scale(const torch::Tensor& loss) const { return loss * scale_; }

  /// Divides the gradients of `optimizer` by the scale, once until its next step: before gradients
  /// are looked at or clipped. Throws UsageError for float16 gradients, which have no room for a
  /// scale. Syncs: no.
  void unscale(torch::optim::Optimizer& optimizer);

  /// Of the unscaled gradients: float32 scalar, above 0 where one is not finite. Ranks that hold
  /// different gradients take the maximum over all.
  torch::Tensor& found_inf(const torch::optim::Optimizer& optimizer) {
    return seen(optimizer).found_inf;
  }

  /// Unscales where that was not done, and makes the next step of `optimizer` change nothing where
  /// one of its gradients is infinite or NaN. An optimizer that is not of trainer::optim must take
  /// undefined gradients as "no update", as LibTorch's do: it is given those. Syncs: no, where the
  /// step of the optimizer reads the flag on the device: Adam, AdamW, SGD, Adagrad of
  /// trainer::optim.
  void prepare_step(torch::optim::Optimizer& optimizer);

  /// prepare_step() and optimizer.step().
  void step(torch::optim::Optimizer& optimizer);

  /// Adapts the scale to what the steps since the last update() met; nothing without one. Call it
  /// once after the steps of a batch. Syncs: no.
  void update();

  /// Syncs: yes.
  double get_scale() const { return scale_.item<double>(); }

  /// The numbers of torch.amp.GradScaler.state_dict(), by its names. Syncs: yes.
  nlohmann::json state_dict() const;
  void load_state_dict(const nlohmann::json& state);

 private:
  struct Seen {
    const torch::optim::Optimizer* optimizer;
    torch::Tensor
        found_inf;  // float32 scalar, 1 where a gradient of the step at hand is not finite
    bool is_unscaled = false;
  };
  Seen& seen(const torch::optim::Optimizer& optimizer);

  GradScalerOptions options_;
  torch::Tensor scale_;           // float32 scalar
  torch::Tensor growth_tracker_;  // int32 scalar: steps without overflow since the scale changed
  torch::Tensor found_inf_;       // float32 scalar, above 0 where a step since update() met one
  std::vector<Seen> seen_;
  bool stepped_ = false;  // since update()
};

}  // namespace trainer
