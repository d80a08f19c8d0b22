#pragma once
// The accelerators that know of GPUs. Neither needs CUDA to be there until it is asked for.

#include <trainer/accelerator.h>

namespace trainer {

/// A GPU of NVIDIA for each process of a node.
class CUDAAccelerator : public Accelerator {
 public:
  static constexpr const char* kDoc = "NVIDIA GPUs, one for each process of a node.";
  /// The GPU is the current one then: torch::kCUDA means it.
  torch::Device device(int local_rank) const override;
};

/// A GPU where this machine has one that can be used, else the processor.
class AutoAccelerator : public Accelerator {
 public:
  static constexpr const char* kDoc = "A GPU where there is one, else the processor.";
  torch::Device device(int local_rank) const override;
};

}  // namespace trainer
