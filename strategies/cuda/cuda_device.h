#pragma once
// The GPUs that this process sees, and which of them is its own.

#include <cstdint>
#include <string>

#include <torch/types.h>

namespace trainer::cuda {

/// Throws UsageError with CUDA's reason where there is none.
int64_t num_devices();

/// The GPU of the process with this rank on its node, made the current one: cuda:<local_rank>, or
/// the only one where CUDA_VISIBLE_DEVICES shows each process its own, as srun does. Throws
/// UsageError.
torch::Device set_device(int local_rank);

/// What no other GPU, or part of one, is called.
std::string uuid(torch::Device device);

}  // namespace trainer::cuda
