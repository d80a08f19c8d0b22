#include <strategies/single_device.h>

#include <trainer/optim/clip.h>

namespace trainer {

torch::Tensor SingleDevice::clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) {
  auto all = gradients(optimizer);
  auto norm = total_norm(all);
  clip_by_norm(all, norm, max_norm);
  return norm;
}

torch::Tensor SingleDevice::optimizer_step(torch::optim::Optimizer& optimizer,
                                           const Closure& closure) {
  return optimizer.step(closure);
}

}  // namespace trainer
