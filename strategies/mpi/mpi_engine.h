#pragma once
// What the operations of a communicator over MPI share. They may outlive it.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include <mpi.h>
#include <torch/types.h>

#include <strategies/comm/communicator.h>
#include <strategies/mpi/rendezvous.h>

namespace trainer {

class MPIEngine;

inline std::byte* bytes_of(const torch::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

/// A collective under way. It goes on in advance() only.
class MPIOperation : public Work::State {
 public:
  MPIOperation(std::shared_ptr<MPIEngine> engine, Collective collective);

  bool is_done() override;
  void wait() override;

  /// Goes as far as it can without waiting; true when it has come to its end. `is_first`: all that
  /// were started before have. `is_waiting`: the caller has nothing else to do.
  virtual bool advance(bool is_first, bool is_waiting) = 0;
  /// Whether later ones may go on before it has come to its end.
  virtual bool lets_others_pass() const { return false; }

  /// Of the piece at hand, in a rendezvous.
  virtual uint64_t ticket() const { return 0; }
  const Collective& what() const { return what_; }

 protected:
  /// Elements that it goes through: of one rank's part where there are parts.
  int64_t length() const { return length_; }
  /// Whether its tensors are one part, which the ranks divide for the work on it.
  bool is_one_part() const {
    return what_.kind == Collective::Kind::kAllReduce || what_.kind == Collective::Kind::kBroadcast;
  }
  // Pieces that stay in the caches.
  static constexpr int64_t kPieceBytes = int64_t{4} << 20;
  /// Elements that make so many bytes of all parts.
  int64_t piece_length(int64_t bytes) const;
  /// Rank r's range of a part of `count` elements that the ranks divide.
  struct Range {
    int64_t begin = 0, count = 0;
  };
  Range slice_of(int64_t count, int r) const;

  const std::shared_ptr<MPIEngine> engine_;
  Collective what_;  // flat, without a graph
  bool done_ = false;

 private:
  int64_t length_ = 0;
};

class MPIEngine {
 public:
  /// A copy of `parent`, which it frees where it owns it. Collective: yes.
  MPIEngine(MPI_Comm parent, bool is_owned);
  MPIEngine(const MPIEngine&) = delete;
  MPIEngine& operator=(const MPIEngine&) = delete;
  ~MPIEngine();

  /// Carries on with what was started; false when nothing is left.
  bool advance(bool is_waiting);
  void drain();
  /// Between two turns of waiting. After many, it lets other messages of this process go on, on
  /// which the awaited rank may depend, and other processes have the core.
  void relax(int turn) const;
  /// Until the request is done, while what was started goes on: the rank at the other end may wait
  /// for that first.
  MPI_Status wait(MPI_Request& request, const std::string& what);
  /// Memory for messages, kept from one operation to the next.
  const torch::Tensor& scratch(int64_t bytes);

  MPI_Comm blocking = MPI_COMM_NULL;  // MPI's collectives
  MPI_Comm async = MPI_COMM_NULL;     // messages of operations under way
  int rank = 0, size = 1;
  std::unique_ptr<Rendezvous> rendezvous;  // where the ranks share memory
  std::deque<std::shared_ptr<MPIOperation>> queue;

 private:
  torch::Tensor scratch_;  // of the operation that runs
};

}  // namespace trainer
