#pragma once
// Gradients of matrices travel as two thin factors whose product is near to them. Choose it where
// the network is so slow that half of the bytes (BF16Compress) is still too many: of an [n, m]
// matrix go rank * (n + m) numbers instead of n * m, for two matrix products and two
// orthogonalizations of thin matrices.
//
// What the factors leave out is not lost: each rank adds it to its next gradient (error feedback),
// and the factors begin where those of the step before ended (warm start), one step of a power
// iteration each. Compare a training's result with and without; convolutions and large linear
// layers bear it best.
//
// What is remembered costs as much memory as the gradients and is not in checkpoints: after a
// resume, as after a change of the buckets, it begins at zero, and the gradients travel as they are
// for `start_step` steps again. It is in the units of the gradients, which with 16-mixed are
// scaled: a change of the scale misjudges it once, so rather choose bf16-mixed.

#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/core/Generator.h>

#include <strategies/comm_hook.h>
#include <trainer/core/reflect.h>

namespace trainer {

/// Parameters of one dimension, and matrices of which the factors would not be
/// `min_compression_rate` times smaller, travel as they are. Factors are computed, and travel, in
/// float64 of float64 and in float32 of everything else. The ranks compute their mean from the same
/// factors: it is the same on all of them where they run on the same kind of processor.
/// Source: Vogels et al. 2019, arXiv:1905.13727, alg. 1 and 2.
class PowerSGD : public CommHook {
 public:
  static constexpr const char* kDoc = "Gradients of matrices travel as two factors of low rank.";

  struct Init {
    int64_t rank = 1;
    int64_t start_step = 1000;
    double min_compression_rate = 2;
    int64_t seed = 0;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::rank>("Columns of the factors: more are nearer and take more bytes.",
                             at_least(1)),
          field<&Init::start_step>(
              "Steps in which gradients travel as they are, while they are large and change fast.",
              at_least(0)),
          field<&Init::min_compression_rate>(
              "A matrix is compressed where its factors have this many times fewer numbers.",
              at_least(0.0)),
          field<&Init::seed>("Seed of the first factors, the same on every rank."),
      };
    }
  };

  PowerSGD() : PowerSGD(Init{}) {}
  explicit PowerSGD(Init init);

  std::unique_ptr<Reduction> start(Communicator& communicator,
                                   const GradientBucket& bucket) override;
  void forget_buckets() override;

 private:
  class FactorReduction;
  /// Of a matrix, from one step to the next.
  struct Memory {
    torch::Tensor error;  // [n, m], this rank's
    torch::Tensor q;      // [m, rank], the same on every rank
  };

  void count_step(size_t bucket);
  bool is_compressed(const torch::Tensor& gradient) const;
  Memory& memory_of(const GradientBucket& bucket, size_t slot);

  Init init_;
  at::Generator generator_;
  std::vector<std::vector<Memory>> memories_;  // by bucket and slot
  int64_t steps_ = 0;                          // that have begun
  std::optional<size_t> last_bucket_;
};

}  // namespace trainer
