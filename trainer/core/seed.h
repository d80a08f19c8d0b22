#pragma once
// Random numbers of a run: the global seed, derived seeds, and the generator state that checkpoints
// keep.

#include <cstdint>
#include <string>

#include <torch/types.h>

namespace trainer {

/// Seeds LibTorch's generators and sets the seed that data order derives from.
void seed_everything(uint64_t seed);

/// The seed given to seed_everything(), 0 before its first call.
uint64_t global_seed();

/// A well-mixed seed from a seed and two numbers (an epoch and a sample index, say); a pure
/// function. Source: SplitMix64's finalizer, Steele, Lea and Flood 2014,
/// doi:10.1145/2714064.2660195.
uint64_t derive_seed(uint64_t seed, uint64_t a, uint64_t b = 0);

/// State of the default CPU generator as bytes, and back. set_rng_state() throws CheckpointError
/// for bytes that are no generator state.
std::string get_rng_state();
void set_rng_state(const std::string& state);

/// Keeps what happens inside the scope from changing the random numbers drawn after it.
class RngIsolation {
 public:
  RngIsolation() : state_(get_rng_state()) {}
  RngIsolation(const RngIsolation&) = delete;
  RngIsolation& operator=(const RngIsolation&) = delete;
  ~RngIsolation() { set_rng_state(state_); }

 private:
  std::string state_;
};

}  // namespace trainer
