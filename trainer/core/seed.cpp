#include <trainer/core/seed.h>

#include <atomic>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/generator_state.h>

namespace trainer {
namespace {

std::atomic<uint64_t> seed_of_run{0};

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

void seed_everything(uint64_t seed) {
  seed_of_run = seed;
  torch::manual_seed(seed);
}

uint64_t global_seed() { return seed_of_run; }

uint64_t derive_seed(uint64_t seed, uint64_t a, uint64_t b) { return mix(mix(mix(seed) ^ a) ^ b); }

std::string get_rng_state() {
  const auto state = GeneratorState(at::detail::getDefaultCPUGenerator()).bytes();
  return {static_cast<const char*>(state.const_data_ptr()), state.nbytes()};
}

void set_rng_state(const std::string& state) {
  const auto bytes = torch::empty({static_cast<int64_t>(state.size())}, torch::kUInt8);
  std::copy(state.begin(), state.end(), static_cast<char*>(bytes.mutable_data_ptr()));
  try {
    GeneratorState(at::detail::getDefaultCPUGenerator(), bytes).restore();
  } catch (const c10::Error& error) {
    throw CheckpointError(std::string("random generator state: LibTorch does not accept it: ") +
                          error.what_without_backtrace());
  }
}

}  // namespace trainer
