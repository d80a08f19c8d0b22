#pragma once
// An accelerator is a kind of device: whether this machine has it, and which device a local rank
// uses.

#include <torch/types.h>

namespace trainer {

class Accelerator {
 public:
  using Base = Accelerator;
  static constexpr const char* kKind = "accelerator";

  virtual ~Accelerator() = default;
  /// The device of the process with this rank on its node. Throws UsageError where there is none.
  virtual torch::Device device(int local_rank) const = 0;
};

/// The processor; every local rank shares it.
class CPUAccelerator : public Accelerator {
 public:
  static constexpr const char* kDoc = "The processor.";
  torch::Device device(int) const override { return torch::kCPU; }
};

}  // namespace trainer
