#pragma once
// A collective as rounds of messages, piece by piece: each piece of a reduction is first sent to
// the ranks that sum its parts, then the sums to everyone.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include <mpi.h>
#include <torch/types.h>

#include <strategies/mpi/mpi_engine.h>

namespace trainer {

class MessageOperation : public MPIOperation {
 public:
  MessageOperation(std::shared_ptr<MPIEngine> engine, Collective collective);
  bool advance(bool is_first, bool is_waiting) override;

 private:
  enum Tag { kFirstRound, kSecondRound };

  void check(int code) const;
  int64_t count() const { return std::min(piece_, length() - begin_); }
  torch::Tensor part(const torch::Tensor& tensor, int r) const;
  torch::Tensor slice(int r) const;
  bool is_one_round() const;
  void receive(const torch::Tensor& into, int from, Tag tag);
  void send(const torch::Tensor& tensor, int to, Tag tag);
  template <class F>
  void for_each_peer(const F& action) const;
  void receive_rows(const torch::Tensor& own);
  void reduce_into(const torch::Tensor& output);
  void open_round();
  void close_round();
  void finish_alone();

  const int64_t piece_;  // elements at a time
  int64_t begin_ = 0;    // of the piece at hand
  bool is_second_round_ = false;
  bool round_is_open_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<torch::Tensor> rows_;
};

}  // namespace trainer
