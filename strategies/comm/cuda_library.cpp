#include <strategies/comm/cuda_library.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/host.h>
#include <trainer/version.h>
#include <trainer/world.h>

namespace trainer {
namespace {

constexpr const char* kFile = TRAINER_CUDA_LIBRARY;  // lies beside libtrainer

struct Loaded {
  const CUDALibrary* library = nullptr;
  std::string why_not = {};
};

/// The folder that libtrainer was loaded from.
std::filesystem::path own_folder() {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&own_folder), &info);
  return info.dli_fname == nullptr ? "." : std::filesystem::path(info.dli_fname).parent_path();
}

Loaded load() {
  if (!has_nvidia_driver()) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return {nullptr,
            fmt::format("0 GPUs: {}.\n  Take accelerator=cpu, or a machine with an NVIDIA GPU and "
                        "its driver; there, run tools/setup.sh --cuda and build again.",
                        visible == nullptr
                            ? "no NVIDIA driver runs (there is no /dev/nvidiactl)"
                            : fmt::format("no NVIDIA driver runs, or CUDA_VISIBLE_DEVICES={} hides "
                                          "them",
                                          visible))};
  }
  const auto path = own_folder() / kFile;
  if (!std::filesystem::exists(path)) {
    return {
        nullptr,
        fmt::format("this trainer was built without CUDA ({} is missing).\n  Run tools/setup.sh "
                    "--cuda and build again; the line 'CUDA:' of cmake says what is missing.",
                    path.string())};
  }
  // Local: its symbols are for the libraries that it was linked with, not for the program.
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    return {nullptr, fmt::format("{} cannot be loaded: {}.\n  Run tools/setup.sh --cuda, which "
                                 "brings the libraries that LibTorch needs for a GPU.",
                                 path.string(), error == nullptr ? "unknown error" : error)};
  }
  const auto entry =
      reinterpret_cast<decltype(&trainer_cuda_library)>(dlsym(handle, "trainer_cuda_library"));
  const CUDALibrary* const library = entry == nullptr ? nullptr : entry();
  if (library == nullptr || std::string_view(library->version) != kVersion) {
    return {nullptr,
            fmt::format("{} belongs to trainer {}, this is {}.\n  Build or install both "
                        "together.",
                        path.string(), library == nullptr ? "?" : library->version, kVersion)};
  }
  return {library};
}

const Loaded& loaded() {
  static const Loaded result = load();
  return result;
}

/// LibTorch makes its CUDA hooks at the first question about CUDA, and keeps them: a library that
/// is loaded later is not seen. So this takes the place of the real ones until somebody asks, loads
/// them then, and hands them over.
std::unique_ptr<at::CUDAHooksInterface> load_hooks(at::CUDAHooksArgs args) {
  if (loaded().library == nullptr) {
    return nullptr;  // LibTorch goes on without CUDA
  }
  return at::CUDAHooksRegistry()->Create("CUDAHooks", args);
}

[[maybe_unused]] const bool hooks_are_registered = [] {
  if (at::CUDAHooksRegistry()->Has("CUDAHooks")) {
    return false;  // the program is linked with LibTorch's CUDA library
  }
  at::CUDAHooksRegistry()->Register("CUDAHooks", load_hooks, c10::REGISTRY_FALLBACK);
  return true;
}();

/// Throws UsageError where there is none.
const CUDALibrary& cuda_library() {
  at::detail::getCUDAHooks();  // load_hooks() runs within this call, never the other way round
  const auto& [library, why_not] = loaded();
  if (library == nullptr) {
    throw UsageError(fmt::format("no CUDA on {}: {}", host_name(), why_not));
  }
  if (!at::detail::getCUDAHooks().hasCUDART()) {
    throw UsageError(fmt::format(
        "no CUDA on {}: LibTorch was asked about CUDA, by torch::manual_seed() say, before "
        "libtrainer was loaded, and keeps its answer.\n  Link the program with libtrainer.",
        host_name()));
  }
  library->num_devices();
  return *library;
}

}  // namespace

bool has_nvidia_driver() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr && (*visible == '\0' || std::string_view(visible) == "-1")) {
    return false;
  }
  std::error_code ignored;
  for (const char* path : {"/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg"}) {
    if (std::filesystem::exists(path, ignored)) {
      return true;
    }
  }
  return false;
}

bool is_cuda_available(std::string* why_not) {
  try {
    cuda_library();
    return true;
  } catch (const UsageError& error) {
    if (why_not != nullptr) {
      *why_not = error.what();
    }
    return false;
  }
}

torch::Device set_cuda_device(int local_rank) { return cuda_library().set_device(local_rank); }

std::unique_ptr<Communicator> cuda_world_communicator() {
  auto& processes = world();
  torch::Device own = torch::kCPU;
  std::string failure;
  try {
    own = set_cuda_device(processes.local_rank());
  } catch (const UsageError& error) {
    failure = error.what();
  }
  // Else the others would wait for the one that has failed.
  const auto failures = processes.all_gather(failure);
  for (size_t r = 0; r < failures.size(); ++r) {
    if (!failures[r].empty()) {
      throw UsageError(failure.empty() ? fmt::format("rank {}: {}", r, failures[r]) : failure);
    }
  }
  return cuda_library().world_communicator(own);
}

}  // namespace trainer
