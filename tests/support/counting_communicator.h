#pragma once
// Another communicator's collectives, counted.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <strategies/comm/communicator.h>

namespace trainer::test {

struct Traffic {
  int collectives = 0;
  int64_t bytes = 0;  // of reductions, as this rank gives them in
};

/// For all_reduce, all_gather, broadcast, barrier and split; `traffic` must outlive it.
class CountingCommunicator : public Communicator {
 public:
  CountingCommunicator(std::unique_ptr<Communicator> inner, Traffic& traffic)
      : inner_(std::move(inner)), traffic_(traffic) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  torch::DeviceType device_type() const override { return inner_->device_type(); }
  void all_to_all_uneven(const std::vector<torch::Tensor>&,
                         const std::vector<torch::Tensor>&) override {}
  void send(const torch::Tensor&, int) override {}
  void recv(const torch::Tensor&, int) override {}
  void barrier() override { inner_->barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return inner_->split(color, key);
  }
  torch::Tensor empty(at::IntArrayRef sizes, torch::ScalarType dtype) override {
    return inner_->empty(sizes, dtype);
  }
  bool prefers_own_memory() const override { return inner_->prefers_own_memory(); }
  void poll() override { inner_->poll(); }

 protected:
  void run(const Collective& what) override { start(what).wait(); }
  Work start(const Collective& what) override {
    ++traffic_.collectives;
    switch (what.kind) {
      case Collective::Kind::kAllGather: return inner_->all_gather_async(what.output, what.input);
      case Collective::Kind::kBroadcast: return inner_->broadcast_async(what.output, what.root);
      default:
        traffic_.bytes += static_cast<int64_t>(what.output.nbytes());
        return inner_->all_reduce_async(what.output, what.op);
    }
  }
  std::vector<std::string> exchange(const std::string& text) override { return {text}; }

 private:
  std::unique_ptr<Communicator> inner_;
  Traffic& traffic_;
};

}  // namespace trainer::test
