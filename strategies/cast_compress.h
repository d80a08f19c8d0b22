#pragma once
// Gradients travel in a short format, in half of the bytes of float32. Choose BF16Compress where
// the network between nodes is what a step waits for: its range is that of float32, and with 8 bits
// of precision most trainings end as they do without. FP16Compress has 11 bits, but gradients above
// 65504 become infinite and those below 3e-8 zero.
//
// Each rank's gradient is rounded once, the mean is computed in float32 and rounded once: it is off
// by at most 2^-7 (BF16Compress) or 2^-10 (FP16Compress) of the mean of the absolute values, and
// the same on every rank.

#include <strategies/comm_hook.h>

namespace trainer {

/// Gradients that are as short already travel as they are.
class CastCompress : public CommHook {
 public:
  std::unique_ptr<Reduction> start(Communicator& communicator,
                                   const GradientBucket& bucket) override;

 protected:
  explicit CastCompress(torch::ScalarType dtype) : dtype_(dtype) {}

 private:
  torch::ScalarType dtype_;
};

class BF16Compress : public CastCompress {
 public:
  static constexpr const char* kDoc = "Gradients travel as bfloat16.";
  BF16Compress() : CastCompress(torch::kBFloat16) {}
};

class FP16Compress : public CastCompress {
 public:
  static constexpr const char* kDoc = "Gradients travel as float16.";
  FP16Compress() : CastCompress(torch::kFloat16) {}
};

}  // namespace trainer
