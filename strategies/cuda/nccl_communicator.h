#pragma once
// The Communicator for tensors on GPUs, over NCCL. Operations run on a stream of their own with a
// high priority, one after the other; the host does not wait for them, but in barrier(), recv(),
// split() and for the answer of all_gather_uneven().
//
// What NCCL gives: an all_reduce leaves the same bits on every rank; the order of a sum depends on
// the number of ranks and on how NCCL connects them, not on the run. bfloat16 and float16 are added
// in that format, rounded after each addition (in float32 within a node where the switch adds,
// NVLS); reduce in float32 where that matters. What NCCL cannot do is made here: a minimum or
// maximum with NaN is NaN, int16 is reduced as int32, and the mean of bfloat16 is divided after the
// sum where 1/size() is not exact in that format. See docs/decisions/0014.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include <strategies/comm/communicator.h>

namespace trainer {

class NCCLCommunicator : public Communicator {
 public:
  /// Of all processes, `own` being the GPU of this one. Throws UsageError where two have the same,
  /// CommError. Collective: yes.
  static std::unique_ptr<Communicator> world(torch::Device own);
  ~NCCLCommunicator() override;

  int rank() const override;
  int size() const override;
  torch::DeviceType device_type() const override { return torch::kCUDA; }

  void all_to_all_uneven(const std::vector<torch::Tensor>& outputs,
                         const std::vector<torch::Tensor>& inputs) override;
  void send(const torch::Tensor& tensor, int to) override;
  /// Syncs: the host waits until the sender has said how much it sends.
  void recv(const torch::Tensor& tensor, int from) override;
  /// Syncs: the host waits until everything on the current streams of all ranks is done.
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  torch::Tensor empty(at::IntArrayRef sizes, torch::ScalarType dtype) override;
  void poll() override;

 protected:
  void run(const Collective& collective) override;
  Work start(const Collective& collective) override;
  std::vector<std::string> exchange(const std::string& text) override;

 private:
  class Link;
  class Operation;
  explicit NCCLCommunicator(std::shared_ptr<Link> link);

  template <class Call>
  std::shared_ptr<Operation> launch(std::shared_ptr<Operation> operation, const Call& call);
  void enqueue(const Collective& collective);
  void reduce(const Collective& collective);
  void wait_on_host(Operation& operation);
  void wait_for_all();
  void forget_finished();
  void check_peer(const char* operation, int peer) const;

  std::shared_ptr<Link> link_;
  std::deque<std::shared_ptr<Operation>> in_flight_;  // keep their tensors alive
};

}  // namespace trainer
