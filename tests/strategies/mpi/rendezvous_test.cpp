// Memory that ranks share, and where they meet to work in it. Runs on several ranks of one node.

#include <strategies/mpi/rendezvous.h>

#include <thread>

#include <gtest/gtest.h>
#include <mpi.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/world.h>

#include <tests/support/memory.h>

namespace trainer {
namespace {

using test::shared_bytes;

class RendezvousTest : public testing::Test {
 protected:
  static int rank() { return world().rank(); }
  static int size() { return world().size(); }
  static void barrier() { MPI_Barrier(MPI_COMM_WORLD); }
};

TEST_F(RendezvousTest, RanksSeeTheMemoryOfTheOthers) {
  const auto memory = NodeMemory::open(MPI_COMM_WORLD, 100);
  ASSERT_NE(memory, nullptr);
  // The header differs in size between rank 0 and the others, so offsets do.
  auto tensor = memory->empty({1000}, torch::kFloat32).fill_(rank());
  int64_t offset = memory->offset_of(tensor.data_ptr()).value();
  std::vector<int64_t> offsets(static_cast<size_t>(size()));
  MPI_Allgather(&offset, 1, MPI_INT64_T, offsets.data(), 1, MPI_INT64_T, MPI_COMM_WORLD);
  for (int r = 0; r < size(); ++r) {
    const auto* const there =
        reinterpret_cast<const float*>(memory->at(r, offsets[static_cast<size_t>(r)]));
    EXPECT_EQ(there[999], static_cast<float>(r));
  }
  EXPECT_FALSE(memory->offset_of(&offset).has_value());
  barrier();
}

TEST_F(RendezvousTest, ATensorKeepsTheMemoryAndItsEndGivesThePagesBack) {
  auto memory = NodeMemory::open(MPI_COMM_WORLD, 0);
  ASSERT_NE(memory, nullptr);
  auto tensor = memory->empty({64, 1024, 1024}, torch::kUInt8);
  memory.reset();
  const int64_t before = shared_bytes();
  tensor.fill_(7);
  EXPECT_EQ(tensor.sum().item<int64_t>(), int64_t{7} * 64 * 1024 * 1024);
  EXPECT_GE(shared_bytes() - before, 60'000 * 1024);
  tensor.reset();
  EXPECT_LE(shared_bytes() - before, 4'000 * 1024);
}

TEST_F(RendezvousTest, BlocksDoNotOverlapAndAreUsedAgain) {
  const auto memory = NodeMemory::open(MPI_COMM_WORLD, 0);
  ASSERT_NE(memory, nullptr);
  std::vector<torch::Tensor> blocks;
  for (int i = 0; i < 100; ++i) {
    blocks.push_back(memory->empty({i * 100 + 1}, torch::kInt32).fill_(i));
    if (i % 3 == 2) {
      blocks[static_cast<size_t>(i / 2)].reset();
    }
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_TRUE(!blocks[i].defined() || (blocks[i] == static_cast<int>(i)).all().item<bool>());
  }
  blocks.clear();
  const auto first = memory->offset_of(memory->empty({1}, torch::kInt8).data_ptr());
  const auto large = memory->empty({1 << 20}, torch::kInt32);
  EXPECT_EQ(memory->offset_of(large.data_ptr()), first) << "free neighbors were not joined";
  barrier();
}

TEST_F(RendezvousTest, MoreThanTheMachineHasIsRefused) {
  const auto memory = NodeMemory::open(MPI_COMM_WORLD, 0);
  ASSERT_NE(memory, nullptr);
  EXPECT_THROW(memory->empty({int64_t{1} << 50}, torch::kUInt8), CommError);
  barrier();
}

TEST_F(RendezvousTest, EachChunkIsClaimedOnce) {
  const auto rendezvous = Rendezvous::open(MPI_COMM_WORLD);
  ASSERT_NE(rendezvous, nullptr);
  constexpr int64_t kPieces = 300, kChunks = 50;  // more pieces than there is room for at a time
  auto claims = torch::zeros({kPieces, kChunks}, torch::kInt64);
  const uint64_t first = rendezvous->take_tickets(kPieces);
  for (uint64_t piece = 0; piece < kPieces; ++piece) {
    const uint64_t ticket = first + piece;
    while (!rendezvous->has_room(ticket)) {
      std::this_thread::yield();
    }
    rendezvous->publish(ticket, {static_cast<int64_t>(piece) + 1000 * rank(), 2, 3, 4});
    while (!rendezvous->is_ready(ticket)) {
      std::this_thread::yield();
    }
    for (int r = 0; r < size(); ++r) {
      EXPECT_EQ(rendezvous->tensors(ticket, r).input, static_cast<int64_t>(piece) + 1000 * r);
    }
    const int share = static_cast<int>(piece) % size();
    while (const auto chunk = rendezvous->claim(ticket, share, kChunks)) {
      claims[static_cast<int64_t>(piece)][*chunk] += 1;
      rendezvous->mark_done(ticket);
    }
    while (rendezvous->num_done(ticket) < kChunks) {
      std::this_thread::yield();
    }
    rendezvous->leave_before(ticket + 1);
  }
  MPI_Allreduce(MPI_IN_PLACE, claims.data_ptr(), kPieces * kChunks, MPI_INT64_T, MPI_SUM,
                MPI_COMM_WORLD);
  EXPECT_TRUE((claims == 1).all().item<bool>());
}

TEST_F(RendezvousTest, ARankThatStaysBehindIsNotOverrun) {
  const auto rendezvous = Rendezvous::open(MPI_COMM_WORLD);
  ASSERT_NE(rendezvous, nullptr);
  constexpr uint64_t kMany = 1000;
  const uint64_t first = rendezvous->take_tickets(kMany);
  uint64_t published = 0;
  while (published < kMany && rendezvous->has_room(first + published)) {
    rendezvous->publish(first + published, {});
    ++published;
  }
  EXPECT_LT(published, kMany);
  barrier();  // nobody has left the first one
  rendezvous->leave_before(first + 1);
  barrier();
  EXPECT_TRUE(rendezvous->has_room(first + published));
  EXPECT_FALSE(rendezvous->has_room(first + published + 1));
  barrier();
}

}  // namespace
}  // namespace trainer
