#include <strategies/cast_compress.h>

#include <utility>

namespace trainer {
namespace {

class CastReduction : public CommHook::Reduction {
 public:
  CastReduction(Communicator& communicator, torch::Tensor gradients, torch::ScalarType dtype)
      : gradients_(std::move(gradients)),
        sent_(c10::elementSize(gradients_.scalar_type()) > c10::elementSize(dtype)
                  ? gradients_.to(dtype)
                  : gradients_),
        work_(communicator.all_reduce_async(sent_, ReduceOp::kMean)) {}

  void finish() override {
    work_.wait();
    if (!sent_.is_same(gradients_)) {
      gradients_.copy_(sent_);
    }
  }

 private:
  torch::Tensor gradients_;
  torch::Tensor sent_;
  Work work_;
};

}  // namespace

std::unique_ptr<CommHook::Reduction> CastCompress::start(Communicator& communicator,
                                                         const GradientBucket& bucket) {
  return std::make_unique<CastReduction>(communicator, bucket.flat, dtype_);
}

}  // namespace trainer
