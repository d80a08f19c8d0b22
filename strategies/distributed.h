#pragma once
// What the strategies of several processes share: the communicator, one module on all ranks, and
// words between them.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <strategies/comm/communicator.h>
#include <strategies/single_device.h>
#include <strategies/sync_batch_norm.h>

namespace trainer {

/// A rank works as a single device does, apart from what is overridden here.
class Distributed : public SingleDevice {
 public:
  void set_device(torch::Device device) override;
  void set_sync_batchnorm(bool synced) override { syncs_batchnorm_ = synced; }
  int rank() const override { return communicator_->rank(); }
  int world_size() const override { return communicator_->size(); }

  /// Moves the module and gives every rank the parameters and buffers of rank 0. Throws UsageError
  /// that names the first parameter in which the ranks' modules differ. Collective: yes.
  void setup_module(torch::nn::Module& module) override;
  void set_step_numbers(const StepNumbers& numbers) override;
  StepNumbers take_step_numbers() override;
  void set_batch_counts(bool counts) override;
  void broadcast_buffers(torch::nn::Module& module) override;
  void all_reduce(torch::Tensor& tensor, ReduceOp op) override;
  torch::Tensor all_gather(const torch::Tensor& tensor) override;
  std::vector<std::string> all_gather_text(const std::string& text) override;
  void barrier() override;

  Communicator& communicator() { return *communicator_; }

 protected:
  /// Brings parameters and buffers to the device, and gives every rank the parameters of rank 0.
  /// Collective: yes.
  virtual void place(torch::nn::Module& module);
  /// Gives every rank the values of rank 0. Collective: yes.
  void broadcast(const torch::Tensor& tensor);
  const StepNumbers& step_numbers() const { return numbers_; }
  /// Their sums came with the gradients.
  void set_step_number_sums(const StepNumbers& sums);

 private:
  Communicator& host_communicator();
  void check_same_module(const torch::nn::Module& module);

  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Communicator> host_communicator_;  // where communicator_ is that of GPUs
  bool syncs_batchnorm_ = false;
  std::optional<SyncBatchNorm> sync_batch_norm_;
  StepNumbers numbers_ = {};              // this rank's
  std::optional<StepNumbers> sums_ = {};  // since set_step_numbers()
};

}  // namespace trainer
