#pragma once
// Where ranks of one node meet to work on each other's tensors, in the memory that they share.
//
// A collective is cut into pieces, numbered by tickets, which count alike on every rank. For each
// piece a rank publishes where its tensors lie. Once all have, the piece's chunks are there to be
// claimed, by any rank, and it is done when the last chunk is.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <mpi.h>

#include <strategies/comm/buffer_pool.h>
#include <strategies/comm/communicator.h>
#include <strategies/mpi/node_memory.h>

namespace trainer {

class Rendezvous {
 public:
  /// A rank's tensors of a piece, as offsets in its part of the memory: where each begins, and the
  /// bytes from one rank's part of it to the next one's.
  struct Tensors {
    int64_t input = 0, input_stride = 0, output = 0, output_stride = 0;
    Collective::Form form = {};  // of the operation, which has to be the same on all
  };

  /// Null, on all ranks, where they share no memory. Collective: yes.
  static std::unique_ptr<Rendezvous> open(MPI_Comm comm);

  NodeMemory& memory() { return *memory_; }

  /// The first of `count` tickets.
  uint64_t take_tickets(int64_t count);
  uint64_t next_ticket() const { return next_ticket_; }

  /// Whether the piece may be published: no other rank is still at the one whose place it takes.
  bool has_room(uint64_t ticket);
  void publish(uint64_t ticket, const Tensors& tensors);
  /// Whether all ranks have published.
  bool is_ready(uint64_t ticket) const;
  const Tensors& tensors(uint64_t ticket, int rank) const;

  /// A chunk of a rank's share that nobody has claimed yet, of `count` ones.
  std::optional<int64_t> claim(uint64_t ticket, int share, int64_t count);
  void mark_done(uint64_t ticket);
  int64_t num_done(uint64_t ticket) const;

  /// This rank has left the pieces before this one.
  void leave_before(uint64_t ticket);

  /// Memory for tensors that lie elsewhere.
  BufferPool& staging() { return staging_; }

 private:
  static constexpr uint64_t kSlots = 64;
  static constexpr int kCountBits = 24;  // below the ticket in a count

  /// Of one piece and the chunks of it: ticket and number, so that nobody has to reset it.
  struct alignas(64) Count {
    std::atomic<uint64_t> value;
  };
  struct alignas(64) Published {
    std::atomic<uint64_t> ticket;
    Tensors tensors;
  };

  Rendezvous(std::shared_ptr<NodeMemory> memory, int rank, int size);
  Published& published(uint64_t ticket, int rank) const;
  Count& claimed(uint64_t ticket, int share) const;
  Count& done(uint64_t ticket) const;
  Count& left(int rank) const;
  static uint64_t number_of(uint64_t value, uint64_t ticket);

  const std::shared_ptr<NodeMemory> memory_;
  const int rank_, size_;
  uint64_t next_ticket_ = 1;
  uint64_t all_left_before_ = 1;  // as far as it was looked at
  BufferPool staging_;
};

}  // namespace trainer
