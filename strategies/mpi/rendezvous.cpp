#include <strategies/mpi/rendezvous.h>

#include <algorithm>
#include <utility>

namespace trainer {

std::unique_ptr<Rendezvous> Rendezvous::open(MPI_Comm comm) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const auto ranks = static_cast<int64_t>(size);
  const auto header =
      static_cast<int64_t>(kSlots) * (ranks * (sizeof(Published) + sizeof(Count)) + sizeof(Count)) +
      ranks * static_cast<int64_t>(sizeof(Count));
  auto memory = NodeMemory::open(comm, header);
  return memory == nullptr
             ? nullptr
             : std::unique_ptr<Rendezvous>(new Rendezvous(std::move(memory), rank, size));
}

Rendezvous::Rendezvous(std::shared_ptr<NodeMemory> memory, int rank, int size)
    : memory_(std::move(memory)),
      rank_(rank),
      size_(size),
      staging_([this](int64_t bytes) { return memory_->empty({bytes}, torch::kUInt8); }) {
  leave_before(next_ticket_);
}

// The header: what was published, slot by slot and rank by rank; what is claimed, in the same way;
// what is done, slot by slot; what was left, rank by rank. It began as zeros.

Rendezvous::Published& Rendezvous::published(uint64_t ticket, int rank) const {
  auto* const first = reinterpret_cast<Published*>(memory_->header());
  return first[(ticket % kSlots) * static_cast<uint64_t>(size_) + static_cast<uint64_t>(rank)];
}

Rendezvous::Count& Rendezvous::claimed(uint64_t ticket, int share) const {
  auto* const first =
      reinterpret_cast<Count*>(&published(0, 0) + kSlots * static_cast<uint64_t>(size_));
  return first[(ticket % kSlots) * static_cast<uint64_t>(size_) + static_cast<uint64_t>(share)];
}

Rendezvous::Count& Rendezvous::done(uint64_t ticket) const {
  return (&claimed(0, 0) + kSlots * static_cast<uint64_t>(size_))[ticket % kSlots];
}

Rendezvous::Count& Rendezvous::left(int rank) const { return (&done(0) + kSlots)[rank]; }

uint64_t Rendezvous::take_tickets(int64_t count) {
  return std::exchange(next_ticket_, next_ticket_ + static_cast<uint64_t>(count));
}

bool Rendezvous::has_room(uint64_t ticket) {
  if (ticket >= all_left_before_ + kSlots) {
    all_left_before_ = ticket;
    for (int r = 0; r < size_; ++r) {
      all_left_before_ = std::min(all_left_before_, left(r).value.load(std::memory_order_acquire));
    }
  }
  return ticket < all_left_before_ + kSlots;
}

void Rendezvous::publish(uint64_t ticket, const Tensors& tensors) {
  auto& own = published(ticket, rank_);
  own.tensors = tensors;
  own.ticket.store(ticket, std::memory_order_release);
}

bool Rendezvous::is_ready(uint64_t ticket) const {
  for (int r = 0; r < size_; ++r) {
    if (published(ticket, r).ticket.load(std::memory_order_acquire) != ticket) {
      return false;
    }
  }
  return true;
}

const Rendezvous::Tensors& Rendezvous::tensors(uint64_t ticket, int rank) const {
  return published(ticket, rank).tensors;
}

uint64_t Rendezvous::number_of(uint64_t value, uint64_t ticket) {
  return value >> kCountBits == ticket ? value & ((uint64_t{1} << kCountBits) - 1) : 0;
}

std::optional<int64_t> Rendezvous::claim(uint64_t ticket, int share, int64_t count) {
  auto& value = claimed(ticket, share).value;
  uint64_t seen = value.load(std::memory_order_acquire);
  while (true) {
    const uint64_t number = number_of(seen, ticket);
    if (number >= static_cast<uint64_t>(count)) {
      return std::nullopt;
    }
    if (value.compare_exchange_weak(seen, (ticket << kCountBits) + number + 1,
                                    std::memory_order_acq_rel)) {
      return static_cast<int64_t>(number);
    }
  }
}

void Rendezvous::mark_done(uint64_t ticket) {
  auto& value = done(ticket).value;
  uint64_t seen = value.load(std::memory_order_acquire);
  while (!value.compare_exchange_weak(seen, (ticket << kCountBits) + number_of(seen, ticket) + 1,
                                      std::memory_order_acq_rel)) {
  }
}

int64_t Rendezvous::num_done(uint64_t ticket) const {
  return static_cast<int64_t>(
      number_of(done(ticket).value.load(std::memory_order_acquire), ticket));
}

void Rendezvous::leave_before(uint64_t ticket) {
  left(rank_).value.store(ticket, std::memory_order_release);
}

}  // namespace trainer
