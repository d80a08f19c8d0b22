#include <trainer/data/prefetcher.h>

#include <dlfcn.h>

#include <chrono>

#include <ATen/Parallel.h>
#include <c10/util/thread_name.h>

namespace trainer {
namespace {

/// How long next() watches for a batch before it sleeps: about what a sleep and a wake-up cost.
constexpr auto kSpin = std::chrono::microseconds(2);

/// Keeps LibTorch's operators in this thread to this thread: the processor's cores belong to the
/// training step. at::set_num_threads() would change the number for all threads that come later;
/// OpenMP's and MKL's own numbers are per thread. LibTorch brings both libraries along.
void run_operators_in_this_thread_only() {
  at::get_num_threads();  // LibTorch sets the number once per thread, at first use: let it be now
  at::internal::lazy_init_num_threads();
  for (const char* name : {"omp_set_num_threads", "mkl_set_num_threads_local"}) {
    if (void* function = dlsym(RTLD_DEFAULT, name)) {
      reinterpret_cast<int (*)(int)>(function)(1);
    }
  }
}

}  // namespace
