#include <strategies/cuda/cuda_device.h>

#include <cstdlib>

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer::cuda {
namespace {

const char* visible_devices() { return std::getenv("CUDA_VISIBLE_DEVICES"); }

}  // namespace

int64_t num_devices() {
  try {
    return c10::cuda::device_count_ensure_non_zero();
  } catch (const c10::Error& error) {
    throw UsageError(
        fmt::format("no CUDA on {}: 0 GPUs: {}\n  Look at the output of nvidia-smi{}.", host_name(),
                    error.what_without_backtrace(),
                    visible_devices() == nullptr
                        ? std::string()
                        : fmt::format(" and at CUDA_VISIBLE_DEVICES={}", visible_devices())));
  }
}

torch::Device set_device(int local_rank) {
  const int64_t devices = num_devices();
  const bool sees_only_its_own = devices == 1 && visible_devices() != nullptr;
  const int64_t index = sees_only_its_own ? 0 : local_rank;
  if (index >= devices) {
    throw UsageError(fmt::format(
        "no GPU for local rank {} on {}: CUDA sees {} there{}.\n  Start at most one process per "
        "GPU on each node.",
        local_rank, host_name(), devices,
        visible_devices() == nullptr
            ? std::string()
            : fmt::format(" (CUDA_VISIBLE_DEVICES={})", visible_devices())));
  }
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

std::string uuid(torch::Device device) {
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index()));
  std::string text;
  for (const char byte : properties.uuid.bytes) {
    text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  }
  return text;
}

}  // namespace trainer::cuda
