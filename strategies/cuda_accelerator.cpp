#include <strategies/cuda_accelerator.h>

#include <string>

#include <strategies/comm/cuda_library.h>
#include <trainer/core/log.h>

namespace trainer {

torch::Device CUDAAccelerator::device(int local_rank) const { return set_cuda_device(local_rank); }

torch::Device AutoAccelerator::device(int local_rank) const {
  if (!has_nvidia_driver()) {
    return torch::kCPU;
  }
  std::string why_not;
  if (is_cuda_available(&why_not)) {
    return set_cuda_device(local_rank);
  }
  log::warning("accelerator=auto takes the processor: " + why_not);
  return torch::kCPU;
}

}  // namespace trainer
