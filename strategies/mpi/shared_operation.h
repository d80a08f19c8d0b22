#pragma once
// A collective in memory that the ranks share, piece by piece: once every rank has published where
// its tensors lie, each works on its share, straight from the tensors of all ranks into those of
// all, and one that has nothing else to do takes over what the others have not begun. A tensor
// outside of that memory is copied into it first, or out of it at the end.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <torch/types.h>

#include <strategies/mpi/mpi_engine.h>
#include <strategies/mpi/rendezvous.h>

namespace trainer {

class SharedOperation : public MPIOperation {
 public:
  SharedOperation(std::shared_ptr<MPIEngine> engine, Collective collective);
  bool advance(bool is_first, bool is_waiting) override;
  /// Where it found no room there is none for later ones.
  bool lets_others_pass() const override { return is_open_ || waits_for_earlier_; }
  uint64_t ticket() const override { return first_ticket_ + static_cast<uint64_t>(piece_); }

 private:
  /// A tensor of this rank in the shared memory.
  struct Tensor {
    torch::Tensor itself;
    torch::Tensor staging;  // where that lies elsewhere
    int64_t num_parts = 1;
    int64_t offset = 0, stride = 0;  // in bytes, of the piece at hand
  };

  void place(Tensor& tensor);
  void copy_in(const Tensor& tensor);
  void copy_out(const Tensor& tensor);
  bool overlaps(const MPIOperation& other) const;
  void check_same() const;
  void open_piece();
  void close_piece();
  void finish();
  void work_on_share(int share);
  void work_on(int share, int64_t chunk);
  int64_t num_chunks(int share) const;
  int64_t chunks_per_part(int share) const;
  Range share_of(int share) const;

  Rendezvous& rendezvous_;
  const int64_t element_;
  const int64_t piece_length_, num_pieces_;
  const uint64_t first_ticket_;
  Tensor input_, output_;
  bool waits_for_earlier_ = false;  // it works on the same memory

  int64_t piece_ = 0;  // the one at hand
  int64_t begin_ = 0, count_ = 0, chunk_length_ = 0, all_chunks_ = 0;
  bool is_open_ = false, is_ready_ = false;
  std::vector<const std::byte*> from_;  // of a chunk
  std::vector<std::byte*> to_;
};

}  // namespace trainer
