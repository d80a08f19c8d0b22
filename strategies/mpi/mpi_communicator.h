#pragma once
// The Communicator for tensors on the processor, over MPI.
//
// Where its ranks are on one node they work in memory that they share (SharedOperation). Otherwise
// what is started to go on beside other work is made of messages between pairs of ranks
// (MessageOperation), and what the caller waits for runs as MPI's own collective, as small ones
// always do. Operations go on whenever this thread calls the communicator: no thread of its own
// competes for the cores. Those that are started sum every element in the order of the ranks, so
// the result does not depend on how tensors are cut into pieces or buckets. See
// docs/decisions/0015 and 0017.

#include <memory>
#include <string>
#include <vector>

#include <strategies/comm/communicator.h>

namespace trainer {

class MPIEngine;

class MPICommunicator : public Communicator {
 public:
  /// Of all processes. Starts MPI where that was not done. Collective: yes.
  static std::unique_ptr<MPICommunicator> world();
  ~MPICommunicator() override;

  int rank() const override;
  int size() const override;
  torch::DeviceType device_type() const override { return torch::kCPU; }

  void all_to_all_uneven(const std::vector<torch::Tensor>& outputs,
                         const std::vector<torch::Tensor>& inputs) override;
  void send(const torch::Tensor& tensor, int to) override;
  void recv(const torch::Tensor& tensor, int from) override;
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  torch::Tensor empty(at::IntArrayRef sizes, torch::ScalarType dtype) override;
  torch::Tensor shared_zeros(at::IntArrayRef sizes, torch::ScalarType dtype) override;
  bool prefers_own_memory() const override;
  void poll() override;

 protected:
  void run(const Collective& collective) override;
  Work start(const Collective& collective) override;
  std::vector<std::string> exchange(const std::string& text) override;

 private:
  explicit MPICommunicator(std::shared_ptr<MPIEngine> engine);

  std::shared_ptr<MPIEngine> engine_;
};

}  // namespace trainer
