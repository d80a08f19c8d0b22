#include <strategies/mpi/shared_operation.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <strategies/mpi/reduce_kernel.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

// Chunks of all ranks stay in the caches; smaller ones cost more in being claimed.
constexpr int64_t kMaxChunkBytes = int64_t{64} << 10;
constexpr int64_t kMinChunkBytes = int64_t{8} << 10;
// Of parts, which mostly lie in memory of ours: nothing is copied in pieces, and each piece has
// ranks that compute meanwhile look twice.
constexpr int64_t kPartsBytes = int64_t{64} << 20;

bool overlap(const torch::Tensor& a, const torch::Tensor& b) {
  if (!a.defined() || !b.defined()) {
    return false;
  }
  const std::less<> before;
  return before(bytes_of(a), bytes_of(b) + b.nbytes()) &&
         before(bytes_of(b), bytes_of(a) + a.nbytes());
}

}  // namespace

SharedOperation::SharedOperation(std::shared_ptr<MPIEngine> engine, Collective collective)
    : MPIOperation(std::move(engine), std::move(collective)),
      rendezvous_(*engine_->rendezvous),
      element_(what_.output.element_size()),
      piece_length_(piece_length(is_one_part() ? kPieceBytes : kPartsBytes)),
      num_pieces_((length() + piece_length_ - 1) / piece_length_),
      first_ticket_(rendezvous_.take_tickets(num_pieces_)) {
  const bool has_parts_in = what_.kind == Kind::kReduceScatter || what_.kind == Kind::kAllToAll;
  const bool has_parts_out = what_.kind == Kind::kAllGather || what_.kind == Kind::kAllToAll;
  output_.itself = what_.output;
  output_.num_parts = has_parts_out ? engine_->size : 1;
  if (!is_one_part()) {
    input_.itself = what_.input;
    input_.num_parts = has_parts_in ? engine_->size : 1;
  }
  waits_for_earlier_ = std::any_of(engine_->queue.begin(), engine_->queue.end(),
                                   [&](const auto& earlier) { return overlaps(*earlier); });
}

bool SharedOperation::overlaps(const MPIOperation& other) const {
  const auto& [kind, output, input, op, root, tag] = other.what();
  return overlap(what_.output, output) || overlap(what_.output, input) ||
         overlap(what_.input, output);
}

bool SharedOperation::advance(bool is_first, bool is_waiting) {
  while (!done_) {
    if (piece_ == num_pieces_) {
      finish();
      break;
    }
    if (!is_open_) {
      if ((waits_for_earlier_ && !is_first) || !rendezvous_.has_room(ticket())) {
        return false;
      }
      open_piece();
    }
    if (!is_ready_) {
      if (rendezvous_.is_ready(ticket())) {
        check_same();
        is_ready_ = true;
      }
      // The last one to come is behind: a rank that waits begins, before this one does its share.
      if (!is_ready_ || !is_waiting) {
        return false;
      }
    }
    work_on_share(engine_->rank);
    for (int i = 1; is_waiting && i < engine_->size; ++i) {
      work_on_share((engine_->rank + i) % engine_->size);
    }
    if (rendezvous_.num_done(ticket()) < all_chunks_) {
      return false;
    }
    close_piece();
  }
  return true;
}

/// Ranks that took different ways through the code would work on each other's memory.
void SharedOperation::check_same() const {
  const auto own = what_.form();
  for (int r = 0; r < engine_->size; ++r) {
    const auto& theirs = rendezvous_.tensors(ticket(), r).form;
    if (theirs != own) {
      throw CommError(fmt::format(
          "{} is at {}, rank {} at {}. Let every rank call the same operations in the same order, "
          "and with FSDP the same layers.",
          rank_name(engine_->rank, engine_->size), own.describe(), r, theirs.describe()));
    }
  }
}

void SharedOperation::open_piece() {
  RECORD_FUNCTION("trainer::send", c10::ArrayRef<const c10::IValue>{});  // for LibTorch's profiler
  begin_ = piece_ * piece_length_;
  count_ = std::min(piece_length_, length() - begin_);
  const int64_t share_bytes = count_ * element_ / (is_one_part() ? engine_->size : 1);
  chunk_length_ = std::clamp(share_bytes / 4, kMinChunkBytes, kMaxChunkBytes) / element_;
  all_chunks_ = 0;
  for (int r = 0; r < engine_->size; ++r) {
    all_chunks_ += num_chunks(r);
  }
  place(output_);
  if (!is_one_part()) {
    place(input_);
  }
  const Tensor& input = is_one_part() ? output_ : input_;
  if (what_.kind != Kind::kBroadcast || what_.root == engine_->rank) {
    copy_in(input);
  }
  rendezvous_.publish(ticket(),
                      {input.offset, input.stride, output_.offset, output_.stride, what_.form()});
  is_open_ = true;
}

void SharedOperation::place(Tensor& tensor) {
  if (const auto offset = rendezvous_.memory().offset_of(tensor.itself.data_ptr())) {
    tensor.offset = *offset + begin_ * element_;
    tensor.stride = length() * element_;
    return;
  }
  if (!tensor.staging.defined()) {
    const int64_t longest = std::min(piece_length_, length());
    tensor.staging = rendezvous_.staging().take(longest * element_ * tensor.num_parts);
  }
  tensor.offset = rendezvous_.memory().offset_of(tensor.staging.data_ptr()).value();
  tensor.stride = count_ * element_;
}

void SharedOperation::copy_in(const Tensor& tensor) {
  for (int64_t p = 0; tensor.staging.defined() && p < tensor.num_parts; ++p) {
    std::memcpy(bytes_of(tensor.staging) + p * tensor.stride,
                bytes_of(tensor.itself) + (p * length() + begin_) * element_,
                static_cast<size_t>(count_ * element_));
  }
}

void SharedOperation::copy_out(const Tensor& tensor) {
  for (int64_t p = 0; tensor.staging.defined() && p < tensor.num_parts; ++p) {
    std::memcpy(bytes_of(tensor.itself) + (p * length() + begin_) * element_,
                bytes_of(tensor.staging) + p * tensor.stride,
                static_cast<size_t>(count_ * element_));
  }
}

void SharedOperation::close_piece() {
  if (what_.kind != Kind::kBroadcast || what_.root != engine_->rank) {
    copy_out(output_);
  }
  is_open_ = is_ready_ = false;
  ++piece_;
}

void SharedOperation::finish() {
  for (auto* const tensor : {&input_, &output_}) {
    if (tensor->staging.defined()) {
      rendezvous_.staging().give_back(std::move(tensor->staging));
    }
  }
  done_ = true;
}

/// What of the piece at hand is a rank's to work on, of each part.
MPIOperation::Range SharedOperation::share_of(int share) const {
  return is_one_part() ? slice_of(count_, share) : Range{0, count_};
}

/// Chunks of one part of a share.
int64_t SharedOperation::chunks_per_part(int share) const {
  return (share_of(share).count + chunk_length_ - 1) / chunk_length_;
}

int64_t SharedOperation::num_chunks(int share) const {
  return chunks_per_part(share) * (what_.kind == Kind::kAllToAll ? engine_->size : 1);
}

void SharedOperation::work_on_share(int share) {
  const int64_t chunks = num_chunks(share);
  while (const auto chunk = rendezvous_.claim(ticket(), share, chunks)) {
    work_on(share, *chunk);
    rendezvous_.mark_done(ticket());
  }
}

void SharedOperation::work_on(int share, int64_t chunk) {
  RECORD_FUNCTION("trainer::reduce", c10::ArrayRef<const c10::IValue>{});
  const int64_t per_part = chunks_per_part(share);
  const Range range = share_of(share);
  const int64_t first = chunk % per_part * chunk_length_;
  const int64_t count = std::min(chunk_length_, range.count - first);
  const int64_t at = (range.begin + first) * element_;

  const auto input = [&](int rank, int64_t part) -> const std::byte* {
    const auto& there = rendezvous_.tensors(ticket(), rank);
    return rendezvous_.memory().at(rank, there.input + part * there.input_stride + at);
  };
  const auto output = [&](int rank, int64_t part) {
    const auto& there = rendezvous_.tensors(ticket(), rank);
    return rendezvous_.memory().at(rank, there.output + part * there.output_stride + at);
  };
  from_.clear();
  to_.clear();
  for (int r = 0; r < engine_->size; ++r) {
    switch (what_.kind) {
      case Kind::kAllReduce:
        from_.push_back(input(r, 0));
        to_.push_back(output(r, 0));
        break;
      case Kind::kReduceScatter: from_.push_back(input(r, share)); break;
      case Kind::kAllGather: to_.push_back(output(r, share)); break;
      case Kind::kBroadcast:
        if (r != what_.root) {
          to_.push_back(output(r, 0));
        }
        break;
      case Kind::kAllToAll: break;
    }
  }
  switch (what_.kind) {
    case Kind::kAllReduce: break;
    case Kind::kReduceScatter: to_.push_back(output(share, 0)); break;
    case Kind::kAllGather: from_.push_back(input(share, 0)); break;
    case Kind::kBroadcast: from_.push_back(input(what_.root, 0)); break;
    case Kind::kAllToAll: {
      const auto sender = static_cast<int>(chunk / per_part);
      from_.push_back(input(sender, share));
      to_.push_back(output(share, sender));
      break;
    }
  }
  reduce_rows(from_, to_, count, what_.output.scalar_type(), what_.op);
}

}  // namespace trainer
