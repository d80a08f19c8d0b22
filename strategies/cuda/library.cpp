// The one symbol by which libtrainer finds what is in this library.

#include <strategies/comm/cuda_library.h>
#include <strategies/cuda/cuda_device.h>
#include <strategies/cuda/nccl_communicator.h>

#include <trainer/version.h>

extern "C" const trainer::CUDALibrary* trainer_cuda_library() {
  static const trainer::CUDALibrary library = {
      .version = trainer::kVersion,
      .num_devices = trainer::cuda::num_devices,
      .set_device = trainer::cuda::set_device,
      .world_communicator = trainer::NCCLCommunicator::world,
  };
  return &library;
}
