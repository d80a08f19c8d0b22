#pragma once
// Everything on one device of one process: no communication at all.

#include <trainer/strategy.h>

namespace trainer {

class SingleDevice : public Strategy {
 public:
  static constexpr const char* kDoc = "One process, one device.";

  void set_device(torch::Device device) override { device_ = device; }
  torch::Device device() const override { return device_; }
  int rank() const override { return 0; }
  int world_size() const override { return 1; }

  void setup_module(torch::nn::Module& module) override { module.to(device_); }
  void zero_gradients(torch::optim::Optimizer& optimizer) override {
    optimizer.zero_grad(/*set_to_none=*/true);
  }
  void require_gradient_sync(bool) override {}
  void finish_gradient_sync() override {}
  torch::Tensor clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) override;
  torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer, const Closure& closure) override;
  void set_step_numbers(const StepNumbers& numbers) override { step_numbers_ = numbers; }
  StepNumbers take_step_numbers() override { return step_numbers_; }
  void broadcast_buffers(torch::nn::Module&) override {}
  void all_reduce(torch::Tensor&, ReduceOp) override {}
  torch::Tensor all_gather(const torch::Tensor& tensor) override { return tensor.unsqueeze(0); }
  std::vector<std::string> all_gather_text(const std::string& text) override { return {text}; }
  void barrier() override {}

 private:
  torch::Device device_ = torch::kCPU;
  StepNumbers step_numbers_ = {};
};

}  // namespace trainer
