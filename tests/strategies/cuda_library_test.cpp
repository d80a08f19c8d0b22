// What holds on every machine: libtrainer_cuda is linked as it should be, and nothing of CUDA is
// loaded, nor needed, until there is a driver for it.

#include <strategies/comm/cuda_library.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <tests/support/process.h>
#include <tests/support/thrown.h>
#include <trainer/accelerator.h>
#include <trainer/builtins.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>
#include <trainer/core/registry.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

std::string loaded_libraries() {
  std::ifstream maps("/proc/self/maps");
  std::ostringstream text;
  text << maps.rdbuf();
  return text.str();
}

/// A machine without a driver, or one whose GPUs are hidden as ctest hides them.
class WithoutGPU : public testing::Test {
 protected:
  void SetUp() override {
    register_builtins();
    unsetenv("CUDA_VISIBLE_DEVICES");
    if (has_nvidia_driver()) {
      setenv("CUDA_VISIBLE_DEVICES", "", /*overwrite=*/1);
    }
  }
  static std::string no_cuda() {
    const char* const reason = std::getenv("CUDA_VISIBLE_DEVICES") == nullptr
                                   ? "no NVIDIA driver runs (there is no /dev/nvidiactl)"
                                   : "no NVIDIA driver runs, or CUDA_VISIBLE_DEVICES= hides them";
    return "no CUDA on " + host_name() + ": 0 GPUs: " + reason +
           ".\n  Take accelerator=cpu, or a machine with an NVIDIA GPU and its driver; there, run "
           "tools/setup.sh --cuda and build again.";
  }
};

TEST_F(WithoutGPU, AcceleratorCUDASaysWhyThereIsNoneAndWhatToDo) {
  for (const char* name : {"cuda", "gpu", "CUDAAccelerator"}) {
    EXPECT_EQ(test::thrown<UsageError>([&] { Trainer trainer({.accelerator = name}); }), no_cuda());
  }
  EXPECT_EQ(test::thrown<UsageError>([] { cuda_world_communicator(); }), no_cuda());
}

TEST_F(WithoutGPU, AutoTakesTheProcessor) {
  EXPECT_EQ(Spec<Accelerator>("auto").create()->device(0), torch::kCPU);
  EXPECT_EQ(Spec<Accelerator>("auto").create()->device(3), torch::kCPU);
}

TEST_F(WithoutGPU, NothingOfCUDAIsLoadedToFindOut) {
  torch::manual_seed(1);
  std::string why_not;
  EXPECT_FALSE(is_cuda_available(&why_not));
  EXPECT_EQ(why_not, no_cuda());
  EXPECT_FALSE(torch::cuda::is_available());
  const auto libraries = loaded_libraries();
  EXPECT_NE(libraries.find("libtorch_cpu.so"), std::string::npos);
  for (const char* name : {"libtrainer_cuda", "libtorch_cuda", "libc10_cuda", "libnccl"}) {
    EXPECT_EQ(libraries.find(name), std::string::npos) << name;
  }
}

TEST(CUDALibrary, LiesWhereItIsLookedForAndIsLinkedWithWhatItNeeds) {
  const std::string file = TRAINER_CUDA_FILE;
  if (file.empty()) {
    GTEST_SKIP() << "1 test skipped: built without CUDA, see the line 'CUDA:' of cmake";
  }
  ASSERT_TRUE(std::filesystem::exists(file)) << file;
  const auto dynamic = test::run({"readelf", "--dynamic", "--wide", file});
  ASSERT_EQ(dynamic.exit_code, 0) << dynamic.err;
  for (const char* name : {"libtrainer.so", "libtorch_cuda.so", "libc10_cuda.so", "libtorch_cpu.so",
                           "libcudart.so", "libnccl.so"}) {
    EXPECT_NE(dynamic.out.find("Shared library: [" + std::string(name)), std::string::npos) << name;
  }
  const auto symbols = test::run({"nm", "--dynamic", "--defined-only", file});
  EXPECT_NE(symbols.out.find(" T trainer_cuda_library\n"), std::string::npos);
  const auto of_libtrainer =
      test::run({"readelf", "--dynamic", "--wide",
                 std::filesystem::path(file).parent_path() / "libtrainer.so"});
  for (const char* name : {"cuda.so", "libcudart", "libnccl"}) {
    EXPECT_EQ(of_libtrainer.out.find(name), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace trainer
