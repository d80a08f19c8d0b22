#pragma once
// Batch norm whose statistics are those of the batches of all ranks. While an object of this class
// lives, torch::nn::BatchNorm1d, 2d and 3d layers of any module take them so in training mode, as
// they do in one process that has all the samples; `trainer: {sync_batchnorm: true}` makes one for
// a fit with DDP. Reach for it where a rank's batch is too small for good statistics.
//
// The layers stay what they are: the operator aten::batch_norm is what changes, for tensors on the
// communicator's kind of device and for the thread that made the object. Evaluation mode, and batch
// statistics where neither gradients nor running statistics are kept, take this rank's samples
// alone and communicate nothing; so does InstanceNorm.
//
// LibTorch's layers refuse a rank's batch of one value per channel ([1, channels], say) before any
// operator is called; torch::batch_norm() takes it. DataLoader leaves no rank with a single sample
// where its batches have more.

#include <memory>

#include <strategies/comm/communicator.h>

namespace trainer {

/// Batch norm over the ranks. Every rank calls the same layers in the same order; a rank's
/// gradients of weight and bias are those of its own samples.
///
/// Shapes:     [batch, channels, ...] in any memory format; batch may differ by rank, and be 0.
///             Statistics of bfloat16 and float16 are computed in float32; they are combined over
///             the ranks in float64.
/// Throws:     UsageError where all ranks together have one value per channel (on the processor),
///             and in a backward pass with create_graph.
/// Collective: yes, one all_gather of 2 * channels + 1 numbers; in the backward pass, where the
///             input needs a gradient, one all_reduce of 2 * channels.   Syncs: no.
/// Source:     Ioffe and Szegedy 2015, arXiv:1502.03167; Chan et al. 1979, STAN-CS-79-773, eq. 2.1.
class SyncBatchNorm {
 public:
  /// `communicator` is for these layers alone: other reductions are under way when they
  /// communicate, and not the same ones on every rank.
  explicit SyncBatchNorm(std::unique_ptr<Communicator> communicator);
  SyncBatchNorm(const SyncBatchNorm&) = delete;
  SyncBatchNorm& operator=(const SyncBatchNorm&) = delete;
  /// What went forward before may still go backward.
  ~SyncBatchNorm();

  /// Whether this rank's samples count in forward passes from now on: else its outputs follow the
  /// statistics of the others, which see nothing of it.
  void set_counts(bool counts);

  struct State;

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<void> operators_;  // as long as any object lives
};

}  // namespace trainer
