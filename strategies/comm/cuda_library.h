#pragma once
// The way to CUDA and NCCL, which live in a library of their own, libtrainer_cuda: a program that
// trains on the processor starts without loading any of them.
//
// The library is loaded when LibTorch first asks whether there is CUDA (torch::manual_seed does),
// since it asks once in the life of a process and keeps the answer. Where no NVIDIA driver runs, or
// CUDA_VISIBLE_DEVICES is empty, nothing is loaded. See docs/decisions/0014.

#include <cstdint>
#include <memory>
#include <string>

#include <torch/types.h>

#include <strategies/comm/communicator.h>

namespace trainer {

/// What libtrainer_cuda offers.
struct CUDALibrary {
  const char* version;       // of the trainer that it belongs to
  int64_t (*num_devices)();  // throws UsageError with the reason where it is 0
  torch::Device (*set_device)(int local_rank);
  std::unique_ptr<Communicator> (*world_communicator)(torch::Device own);
};

/// Whether tensors can be on a GPU here. Does not throw; `why_not` gets the reason.
bool is_cuda_available(std::string* why_not = nullptr);

/// Whether this machine has an NVIDIA driver and CUDA_VISIBLE_DEVICES lets a GPU be seen: what is
/// known without loading anything.
bool has_nvidia_driver();

/// The GPU of the process with this rank on its node, which is then the current one: torch::kCUDA
/// means it. Throws UsageError where there is none.
torch::Device set_cuda_device(int local_rank);

/// Of all processes, each with the GPU of set_cuda_device(). Throws UsageError on every rank where
/// one has no GPU, CommError. Collective: yes.
std::unique_ptr<Communicator> cuda_world_communicator();

}  // namespace trainer

/// The entry of libtrainer_cuda.
extern "C" const trainer::CUDALibrary* trainer_cuda_library();
