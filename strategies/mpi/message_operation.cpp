#include <strategies/mpi/message_operation.h>

#include <algorithm>
#include <utility>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>

#include <strategies/mpi/mpi_library.h>
#include <strategies/mpi/reduce_kernel.h>

namespace trainer {
namespace {

using Kind = Collective::Kind;

// Where two rounds of messages cost more than sending everything to everyone.
constexpr int64_t kOneRoundBytes = int64_t{16} << 10;

}  // namespace

MessageOperation::MessageOperation(std::shared_ptr<MPIEngine> engine, Collective collective)
    : MPIOperation(std::move(engine), std::move(collective)), piece_(piece_length(kPieceBytes)) {}

bool MessageOperation::advance(bool is_first, bool) {
  const at::AutoDispatchBelowADInplaceOrView without_autograd;
  while (!done_) {
    if (!is_first) {
      return false;
    }
    if (!round_is_open_) {
      if (begin_ >= length() || engine_->size == 1) {
        finish_alone();
        done_ = true;
        break;
      }
      open_round();
    }
    int arrived = 0;
    check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &arrived,
                      MPI_STATUSES_IGNORE));
    if (arrived == 0) {
      return false;
    }
    close_round();
  }
  return true;
}

void MessageOperation::check(int code) const {
  if (code != MPI_SUCCESS) {
    mpi::check(code, what_.describe());
  }
}

/// One rank's part of a tensor of equal parts: the piece at hand of it.
torch::Tensor MessageOperation::part(const torch::Tensor& tensor, int r) const {
  return tensor.narrow(0, r * length() + begin_, count());
}

/// The slice of the piece at hand that rank `r` reduces.
torch::Tensor MessageOperation::slice(int r) const {
  const Range own = slice_of(count(), r);
  return what_.output.narrow(0, begin_ + own.begin, own.count);
}

/// Whether everyone gets everything in one round and reduces it all.
bool MessageOperation::is_one_round() const {
  return what_.output.element_size() * count() * (engine_->size - 1) <= kOneRoundBytes;
}

void MessageOperation::receive(const torch::Tensor& into, int from, Tag tag) {
  check(MPI_Irecv(into.data_ptr(), static_cast<int>(into.nbytes()), MPI_BYTE, from, tag,
                  engine_->async, &requests_.emplace_back()));
}

void MessageOperation::send(const torch::Tensor& tensor, int to, Tag tag) {
  check(MPI_Isend(tensor.data_ptr(), static_cast<int>(tensor.nbytes()), MPI_BYTE, to, tag,
                  engine_->async, &requests_.emplace_back()));
}

template <class F>
void MessageOperation::for_each_peer(const F& action) const {
  for (int i = 1; i < engine_->size; ++i) {
    action((engine_->rank + i) % engine_->size);  // not all to the same rank first
  }
}

/// Receives of every other rank a row like `own`, to be reduced with it.
void MessageOperation::receive_rows(const torch::Tensor& own) {
  const int64_t bytes = static_cast<int64_t>(own.nbytes());
  const auto memory = engine_->scratch(bytes * engine_->size);
  rows_.assign(static_cast<size_t>(engine_->size), own);
  for_each_peer([&](int r) {
    auto& row = rows_[static_cast<size_t>(r)];
    row = torch::from_blob(bytes_of(memory) + bytes * r, own.sizes(), own.options());
    receive(row, r, kFirstRound);
  });
}

void MessageOperation::reduce_into(const torch::Tensor& output) {
  std::vector<const std::byte*> from;
  for (const auto& row : rows_) {
    from.push_back(bytes_of(row));
  }
  reduce_rows(from, {bytes_of(output)}, output.numel(), output.scalar_type(), what_.op);
}

void MessageOperation::open_round() {
  RECORD_FUNCTION("trainer::send", c10::ArrayRef<const c10::IValue>{});  // for LibTorch's profiler
  const int own = engine_->rank;
  switch (what_.kind) {
    case Kind::kAllReduce:
      if (is_second_round_) {
        for_each_peer([&](int r) { receive(slice(r), r, kSecondRound); });
        for_each_peer([&](int r) { send(slice(own), r, kSecondRound); });
      } else if (is_one_round()) {
        const auto whole = what_.output.narrow(0, begin_, count());
        receive_rows(whole);
        for_each_peer([&](int r) { send(whole, r, kFirstRound); });
      } else {
        receive_rows(slice(own));
        for_each_peer([&](int r) { send(slice(r), r, kFirstRound); });
      }
      break;
    case Kind::kReduceScatter:
      receive_rows(part(what_.input, own));
      for_each_peer([&](int r) { send(part(what_.input, r), r, kFirstRound); });
      break;
    case Kind::kAllGather: {
      const auto piece = what_.input.narrow(0, begin_, count());
      for_each_peer([&](int r) { receive(part(what_.output, r), r, kFirstRound); });
      for_each_peer([&](int r) { send(piece, r, kFirstRound); });
      break;
    }
    case Kind::kBroadcast: {
      const auto piece = what_.output.narrow(0, begin_, count());
      if (own != what_.root) {
        receive(piece, what_.root, kFirstRound);
      } else {
        for_each_peer([&](int r) { send(piece, r, kFirstRound); });
      }
      break;
    }
    case Kind::kAllToAll:
      for_each_peer([&](int r) { receive(part(what_.output, r), r, kFirstRound); });
      for_each_peer([&](int r) { send(part(what_.input, r), r, kFirstRound); });
      break;
  }
  round_is_open_ = true;
}

void MessageOperation::close_round() {
  RECORD_FUNCTION("trainer::reduce", c10::ArrayRef<const c10::IValue>{});
  requests_.clear();
  round_is_open_ = false;
  if (what_.kind == Kind::kAllReduce && !is_second_round_) {
    const bool is_whole = is_one_round();
    reduce_into(is_whole ? what_.output.narrow(0, begin_, count()) : slice(engine_->rank));
    is_second_round_ = !is_whole;
    if (is_second_round_) {
      return;
    }
  } else if (what_.kind == Kind::kReduceScatter) {
    reduce_into(what_.output.narrow(0, begin_, count()));
  }
  is_second_round_ = false;
  begin_ += count();
}

/// This rank's own part, which no message brings.
void MessageOperation::finish_alone() {
  const int own = engine_->rank;
  if (what_.kind == Kind::kAllGather || what_.kind == Kind::kAllToAll) {
    const auto from = what_.kind == Kind::kAllGather
                          ? what_.input
                          : what_.input.narrow(0, own * length(), length());
    const auto to = what_.output.narrow(0, own * length(), length());
    if (to.numel() > 0 && to.data_ptr() != from.data_ptr()) {
      to.copy_(from);
    }
  } else if (what_.kind == Kind::kReduceScatter && engine_->size == 1) {
    what_.output.copy_(what_.input);
  }
  rows_.clear();
}

}  // namespace trainer
