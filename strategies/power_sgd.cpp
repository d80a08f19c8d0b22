#include <strategies/power_sgd.h>

#include <algorithm>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/linalg_qr.h>
#include <torch/utils.h>

namespace trainer {
namespace {

torch::ScalarType factor_dtype(const torch::Tensor& gradient) {
  return gradient.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

torch::Tensor as_matrix(const torch::Tensor& gradient) {
  return gradient.view({gradient.size(0), -1});
}

/// An orthonormal basis of the columns' span, with any further ones where they are dependent.
torch::Tensor orthonormal(const torch::Tensor& columns) {
  return std::get<0>(at::linalg_qr(columns));
}

/// Consecutive parts of one tensor, so that they travel together.
class Message {
 public:
  Message(int64_t numel, torch::TensorOptions options) : flat_(torch::empty({numel}, options)) {}
  torch::Tensor next(at::IntArrayRef shape) {
    const int64_t numel = c10::multiply_integers(shape);
    const auto part = flat_.narrow(0, begin_, numel).view(shape);
    begin_ += numel;
    return part;
  }
  const torch::Tensor& flat() const { return flat_; }

 private:
  torch::Tensor flat_;
  int64_t begin_ = 0;
};

}  // namespace

/// First P = M Q travels, with what is not compressed; then, when all of them are there, Q = M' P.
class PowerSGD::FactorReduction : public CommHook::Reduction {
 public:
  FactorReduction(PowerSGD& hook, Communicator& communicator, const GradientBucket& bucket)
      : communicator_(communicator) {
    int64_t numel = 0;
    for (size_t i = 0; i < bucket.slots.size(); ++i) {
      const auto& slot = bucket.slots[i];
      if (!hook.is_compressed(slot)) {
        uncompressed_.push_back({slot, {}});
        numel += slot.numel();
        continue;
      }
      auto& memory = hook.memory_of(bucket, i);
      const auto gradient = as_matrix(slot);
      matrices_.push_back({gradient, memory.error.add_(gradient), &memory, {}, {}});
      numel += gradient.size(0) * memory.q.size(1);
    }
    Message message(numel, bucket.flat.options().dtype(factor_dtype(bucket.flat)));
    for (auto& matrix : matrices_) {
      auto& q = matrix.memory->q;
      q = orthonormal(q);  // the size of gradients must not add up in it
      matrix.p = message.next({matrix.sum.size(0), q.size(1)});
      torch::matmul_out(matrix.p, matrix.sum, q);
    }
    for (auto& [slot, sent] : uncompressed_) {
      sent = message.next(slot.sizes());
      sent.copy_(slot);
    }
    work_ = communicator_.all_reduce_async(message.flat(), ReduceOp::kMean);
  }

  void finish() override {
    const torch::NoGradGuard no_grad;
    work_.wait();
    for (const auto& [slot, sent] : uncompressed_) {
      slot.copy_(sent);
    }
    if (matrices_.empty()) {
      return;
    }
    int64_t numel = 0;
    for (const auto& matrix : matrices_) {
      numel += matrix.memory->q.numel();
    }
    Message message(numel, matrices_.front().sum.options());
    for (auto& matrix : matrices_) {
      matrix.p = orthonormal(matrix.p);
      matrix.q = message.next(matrix.memory->q.sizes());
      torch::matmul_out(matrix.q, matrix.sum.t(), matrix.p);
    }
    // In the order of the ranks, as started reductions are: the same bits on all of them.
    communicator_.all_reduce_async(message.flat(), ReduceOp::kMean).wait();
    for (auto& matrix : matrices_) {
      const auto mean = matrix.p.matmul(matrix.q.t());
      matrix.gradient.copy_(mean);
      // After a gradient that is not finite, whose step may be skipped, memory begins anew.
      auto& [error, q] = *matrix.memory;
      const auto is_finite = matrix.q.isfinite().all();
      error.sub_(mean);
      error = torch::where(is_finite, error, torch::zeros_like(error));
      q = torch::where(is_finite, matrix.q, q);
    }
  }

 private:
  struct Matrix {
    torch::Tensor gradient;  // [n, m], of the bucket
    torch::Tensor sum;       // gradient and error: the error's memory
    Memory* memory;
    torch::Tensor p, q;  // [n, rank], [m, rank]
  };
  struct Uncompressed {
    torch::Tensor slot, sent;
  };

  Communicator& communicator_;
  std::vector<Matrix> matrices_;
  std::vector<Uncompressed> uncompressed_;
  Work work_;
};

PowerSGD::PowerSGD(Init init)
    : init_(init),
      generator_(at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(init.seed))) {}

std::unique_ptr<CommHook::Reduction> PowerSGD::start(Communicator& communicator,
                                                     const GradientBucket& bucket) {
  count_step(bucket.index);
  return std::make_unique<FactorReduction>(*this, communicator, bucket);
}

void PowerSGD::forget_buckets() {
  memories_.clear();
  last_bucket_.reset();
}

/// Indices rise within a step.
void PowerSGD::count_step(size_t bucket) {
  steps_ += !last_bucket_ || bucket <= *last_bucket_ ? 1 : 0;
  last_bucket_ = bucket;
}

bool PowerSGD::is_compressed(const torch::Tensor& gradient) const {
  if (steps_ <= init_.start_step || gradient.dim() < 2 || gradient.numel() == 0) {
    return false;
  }
  const int64_t n = gradient.size(0);
  const int64_t m = gradient.numel() / n;
  const int64_t rank = std::min({init_.rank, n, m});
  return static_cast<double>((n + m) * rank) * init_.min_compression_rate <=
         static_cast<double>(n * m);
}

PowerSGD::Memory& PowerSGD::memory_of(const GradientBucket& bucket, size_t slot) {
  if (memories_.size() <= bucket.index) {
    memories_.resize(bucket.index + 1);
  }
  auto& memories = memories_[bucket.index];
  memories.resize(bucket.slots.size());
  Memory& memory = memories[slot];
  if (!memory.error.defined()) {
    const auto matrix = as_matrix(bucket.slots[slot]);
    const auto options = matrix.options().dtype(factor_dtype(matrix));
    memory.error = torch::zeros(matrix.sizes(), options);
    const int64_t rank = std::min({init_.rank, matrix.size(0), matrix.size(1)});
    // On the processor, so that it is the same on every kind of device.
    memory.q = torch::randn({matrix.size(1), rank}, generator_, torch::kFloat64).to(options);
  }
  return memory;
}

}  // namespace trainer
