#pragma once
// Distributed data parallel: every rank holds the whole module, computes on its own part of each
// batch, and the gradients are averaged over the ranks. Choose it (or `auto`, which does) to train
// faster on several processors or GPUs a module that fits each of them.

#include <memory>
#include <optional>

#include <strategies/gradient_bucketer.h>
#include <strategies/single_device.h>
#include <strategies/sync_batch_norm.h>
#include <trainer/core/reflect.h>
#include <trainer/core/registry.h>

namespace trainer {

/// A rank works as a single device does, apart from what is overridden here.
class DDP : public SingleDevice {
 public:
  static constexpr const char* kDoc =
      "Every rank holds the whole module; gradients are averaged while backward runs.";

  struct Init {
    std::optional<double> bucket_mb = std::nullopt;
    bool static_graph = false;
    std::optional<Spec<CommHook>> comm_hook = std::nullopt;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::bucket_mb>(
              "Size of a gradient bucket in MiB; unset: 4 on the processor, 25 on GPUs.",
              at_least(0.001)),
          field<&Init::static_graph>(
              "The same parameters get gradients in every step, so that those without one are not "
              "waited for; a change is an error."),
          field<&Init::comm_hook>(
              "How gradients travel: BF16Compress, FP16Compress or PowerSGD; unset: as they are."),
      };
    }
  };

  DDP() : DDP(Init{}) {}
  explicit DDP(Init init);
  ~DDP() override;

  void set_device(torch::Device device) override;
  void set_sync_batchnorm(bool synced) override { syncs_batchnorm_ = synced; }
  int rank() const override { return communicator_->rank(); }
  int world_size() const override { return communicator_->size(); }

  /// Moves the module and gives every rank the parameters and buffers of rank 0. Throws UsageError
  /// that names the first parameter in which the ranks' modules differ. Collective: yes.
  void setup_module(torch::nn::Module& module) override;
  void require_gradient_sync(bool required) override;
  void finish_gradient_sync() override;
  void set_step_numbers(const StepNumbers& numbers) override;
  StepNumbers take_step_numbers() override;
  void set_batch_counts(bool counts) override;
  void broadcast_buffers(torch::nn::Module& module) override;
  void all_reduce(torch::Tensor& tensor, ReduceOp op) override;
  torch::Tensor all_gather(const torch::Tensor& tensor) override;
  std::vector<std::string> all_gather_text(const std::string& text) override;
  void barrier() override;

  Communicator& communicator() { return *communicator_; }

 private:
  Communicator& host_communicator();
  void check_same_module(const torch::nn::Module& module);
  void tell_of_unused();

  Init init_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Communicator> host_communicator_;  // where communicator_ is that of GPUs
  std::shared_ptr<CommHook> hook_;
  std::unique_ptr<GradientBucketer> bucketer_;
  bool syncs_batchnorm_ = false;
  std::optional<SyncBatchNorm> sync_batch_norm_;
  bool numbers_rode_ = false;  // since set_step_numbers()
  StepNumbers numbers_ = {};
  bool told_of_unused_ = false;
};

}  // namespace trainer
