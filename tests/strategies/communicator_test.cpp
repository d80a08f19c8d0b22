// The Communicator for tensors on the processor.

#include <strategies/comm/communicator.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/world.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/memory.h>
#include <tests/support/rank_values.h>

namespace trainer {
namespace {

using test::all_values, test::kSizes, test::reduced, test::reductions, test::values;

class CommunicatorTest : public test::CommunicatorFixture {
 protected:
  /// Exact but for the order of sums, which MPI's own collectives choose.
  static void expect_close(const torch::Tensor& actual, const torch::Tensor& expected,
                           const std::string& what) {
    ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
    ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
    const bool is_wide =
        actual.scalar_type() == torch::kFloat64 || actual.scalar_type() == torch::kComplexDouble;
    const bool is_exact = !c10::isFloatingType(actual.scalar_type()) && !actual.is_complex();
    const double tolerance = is_exact ? 0 : is_wide ? 1e-15 : 1e-6;
    EXPECT_TRUE(torch::allclose(actual, expected, tolerance, tolerance, /*equal_nan=*/true))
        << what << "\n"
        << (actual.numel() < 20 ? c10::str(actual, " against ", expected) : "");
  }
};

TEST_F(CommunicatorTest, AllReduceIsTheReductionOverTheRanksForEveryDtypeOpAndSize) {
  for (const auto& [dtype, op] : reductions()) {
    for (const int64_t n : kSizes) {
      if (n > 100'000 && dtype != torch::kFloat32 && dtype != torch::kBFloat16) {
        continue;
      }
      const std::string what =
          c10::str("op ", static_cast<int>(op), " of ", n, " ", c10::toString(dtype));
      const auto expected = reduced(all_values(size(), {n}, dtype), op);
      auto blocking = values(rank(), {n}, dtype);
      comm().all_reduce(blocking, op);
      expect_close(blocking, expected, what);
      auto started = values(rank(), {n}, dtype);
      comm().all_reduce_async(started, op).wait();
      EXPECT_TRUE(torch::equal(started, expected)) << "not in the order of the ranks: " << what;
    }
  }
}

TEST_F(CommunicatorTest, EveryRankGetsTheSameBits) {
  for (const int64_t n : {5, 40'000, 1'000'001}) {
    for (const bool is_async : {false, true}) {
      auto tensor = values(rank(), {n}, torch::kFloat32);
      is_async ? comm().all_reduce_async(tensor).wait() : comm().all_reduce(tensor);
      auto all = torch::empty({size(), n});
      comm().all_gather(all, tensor);
      for (int r = 0; r < size(); ++r) {
        EXPECT_TRUE(torch::equal(all[r], tensor)) << "rank " << r << ", " << n << " elements";
      }
    }
  }
}

TEST_F(CommunicatorTest, AMinimumOrMaximumWithNaNIsNaN) {
  for (const auto op : {ReduceOp::kMin, ReduceOp::kMax}) {
    auto tensor = torch::full({3}, static_cast<double>(rank()));
    if (rank() == size() - 1) {
      tensor[1] = std::numeric_limits<double>::quiet_NaN();
    }
    comm().all_reduce(tensor, op);
    EXPECT_TRUE(std::isnan(tensor[1].item<double>()));
    EXPECT_EQ(tensor[0].item<double>(), op == ReduceOp::kMin ? 0 : size() - 1);
  }
}

TEST_F(CommunicatorTest, ReduceScatterGivesEachRankItsPartAndLeavesTheInput) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16, torch::kInt64}) {
    for (const int64_t n : {0, 1, 77, 1'200'001}) {
      const auto input = values(rank(), {size(), n}, dtype);
      const auto before = input.clone();
      auto output = torch::empty({n}, dtype);
      comm().reduce_scatter(output, input);
      expect_close(output, reduced(all_values(size(), {size(), n}, dtype), ReduceOp::kSum)[rank()],
                   c10::str(n, " ", c10::toString(dtype)));
      EXPECT_TRUE(torch::equal(input, before));
    }
  }
}

TEST_F(CommunicatorTest, AllGatherPutsTheRanksOneAfterTheOther) {
  for (const auto dtype : {torch::kFloat32, torch::kBool, torch::kInt16, torch::kComplexFloat}) {
    for (const int64_t n : {0, 1, 77, 1'200'001}) {
      const auto expected = torch::stack(all_values(size(), {n}, dtype));
      auto blocking = torch::empty({size(), n}, dtype);
      comm().all_gather(blocking, values(rank(), {n}, dtype));
      EXPECT_TRUE(torch::equal(blocking, expected));
      auto in_place = torch::zeros({size(), n}, dtype);
      in_place[rank()].copy_(values(rank(), {n}, dtype));
      comm().all_gather_async(in_place, in_place[rank()]).wait();
      EXPECT_TRUE(torch::equal(in_place, expected));
    }
  }
}

TEST_F(CommunicatorTest, AllGatherUnevenTakesAnyShapes) {
  const auto shape = [](int r) {
    return r == 1 ? std::vector<int64_t>{0, 4} : std::vector<int64_t>(r % 3, r + 2);
  };
  const auto all = comm().all_gather_uneven(values(rank(), shape(rank()), torch::kFloat32));
  ASSERT_EQ(all.size(), static_cast<size_t>(size()));
  for (int r = 0; r < size(); ++r) {
    EXPECT_TRUE(torch::equal(all[static_cast<size_t>(r)], values(r, shape(r), torch::kFloat32)));
  }
}

TEST_F(CommunicatorTest, BroadcastGivesEveryoneTheRootsTensor) {
  for (int root = 0; root < size(); ++root) {
    for (const int64_t n : {0, 1, 77, 1'200'001}) {
      auto blocking = values(rank(), {n}, torch::kFloat32);
      comm().broadcast(blocking, root);
      EXPECT_TRUE(torch::equal(blocking, values(root, {n}, torch::kFloat32)));
      auto started = values(rank(), {n}, torch::kFloat64);
      comm().broadcast_async(started, root).wait();
      EXPECT_TRUE(torch::equal(started, values(root, {n}, torch::kFloat64)));
    }
  }
}

TEST_F(CommunicatorTest, AllToAllTransposesRanksAndParts) {
  for (const int64_t n : {0, 1, 77, 600'001}) {
    auto output = torch::empty({size(), n}, torch::kFloat32);
    comm().all_to_all(output, values(rank(), {size(), n}, torch::kFloat32));
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(output[r], values(r, {size(), n}, torch::kFloat32)[rank()]));
    }
  }
}

TEST_F(CommunicatorTest, AllToAllUnevenTakesPartsOfAnySize) {
  const auto part = [](int from, int to) {
    return torch::full({from * 3 + to}, static_cast<float>(10 * from + to));
  };
  std::vector<torch::Tensor> inputs, outputs;
  for (int r = 0; r < size(); ++r) {
    inputs.push_back(part(rank(), r));
    outputs.push_back(torch::zeros({r * 3 + rank()}));
  }
  comm().all_to_all_uneven(outputs, inputs);
  for (int r = 0; r < size(); ++r) {
    EXPECT_TRUE(torch::equal(outputs[static_cast<size_t>(r)], part(r, rank())));
  }
}

TEST_F(CommunicatorTest, SendAndRecvGoFromOneRankToAnother) {
  for (int r = 1; r < size(); ++r) {
    if (rank() == 0) {
      comm().send(values(r, {1000}, torch::kFloat32), r);
      auto back = torch::empty({0});
      comm().recv(back, r);
    } else if (rank() == r) {
      auto tensor = torch::empty({1000});
      comm().recv(tensor, 0);
      EXPECT_TRUE(torch::equal(tensor, values(r, {1000}, torch::kFloat32)));
      comm().send(torch::empty({0}), 0);
    }
  }
}

TEST_F(CommunicatorTest, ALargeMessageGoesBesideAnOperationUnderWay) {
  auto reduced = torch::ones({1'000'000});
  auto message = torch::full({1'000'000}, static_cast<float>(rank()));
  Work work = comm().all_reduce_async(reduced);
  if (rank() == 0 && size() > 1) {
    comm().send(message, 1);
  }
  work.wait();
  if (rank() == 1) {
    comm().recv(message, 0);
  }
  EXPECT_EQ(reduced[0].item<float>(), static_cast<float>(size()));
  EXPECT_EQ(message[-1].item<float>(), static_cast<float>(rank() == 1 ? 0 : rank()));
}

TEST_F(CommunicatorTest, RecvNamesAnotherSizeThanWasSent) {
  if (size() < 2) {
    GTEST_SKIP() << "there is nobody to send to";
  }
  if (rank() == 0) {
    comm().send(torch::empty({3}), 1);
  } else if (rank() == 1) {
    auto tensor = torch::empty({4});
    try {
      comm().recv(tensor, 0);
      FAIL() << "received";
    } catch (const CommError& error) {
      EXPECT_NE(std::string(error.what()).find("recv of 16 bytes from rank 0: it sent 12"),
                std::string::npos)
          << error.what();
    }
  }
}

TEST_F(CommunicatorTest, OperationsRunInTheOrderInWhichTheyWereStarted) {
  auto first = torch::full({500'000}, 1.0F);
  auto second = torch::full({10}, static_cast<float>(rank()));
  Work one = comm().all_reduce_async(first);
  Work two = comm().broadcast_async(second, size() - 1);
  auto third = torch::ones({1});
  comm().all_reduce(third);  // after both
  EXPECT_TRUE(one.is_done());
  EXPECT_TRUE(two.is_done());
  EXPECT_EQ(first[499'999].item<float>(), static_cast<float>(size()));
  EXPECT_EQ(second[0].item<float>(), static_cast<float>(size() - 1));
  EXPECT_EQ(third.item<float>(), static_cast<float>(size()));
}

TEST_F(CommunicatorTest, TensorsInMemoryOfTheCommunicatorAreLikeAnyOthers) {
  for (const int64_t n : {0, 1, 70'001, 2'300'003}) {
    const auto of = [&](int r, const std::vector<int64_t>& shape) {
      return comm().empty(shape, torch::kFloat32).copy_(values(r, shape, torch::kFloat32));
    };
    const auto all = all_values(size(), {n}, torch::kFloat32);
    const auto reduced_tensor = of(rank(), {n});
    const auto sent = of(rank(), {n});
    const auto gathered = comm().empty({size(), n}, torch::kFloat32);
    const auto parts = of(rank(), {size(), n});
    const auto part = comm().empty({n}, torch::kFloat32);
    const auto transposed = comm().empty({size(), n}, torch::kFloat32);
    std::vector<Work> works = {
        comm().all_reduce_async(reduced_tensor, ReduceOp::kMean),
        comm().all_gather_async(gathered, sent), comm().reduce_scatter_async(part, parts),
        comm().all_to_all_async(transposed, parts), comm().broadcast_async(sent, size() - 1)};
    for (auto& work : works) {
      work.wait();
    }
    EXPECT_TRUE(torch::equal(reduced_tensor, reduced(all, ReduceOp::kMean)));
    EXPECT_TRUE(torch::equal(gathered, torch::stack(all)));
    EXPECT_TRUE(torch::equal(sent, all.back())) << "broadcast before it was gathered";
    const auto all_parts = all_values(size(), {size(), n}, torch::kFloat32);
    EXPECT_TRUE(torch::equal(part, reduced(all_parts, ReduceOp::kSum)[rank()]));
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(transposed[r], all_parts[static_cast<size_t>(r)][rank()]));
    }
  }
}

TEST_F(CommunicatorTest, TensorsMayLieInItsMemoryOnSomeRanksOnly) {
  for (const int64_t n : {1, 70'001, 2'300'003}) {
    const auto tensor = [&](int r, const std::vector<int64_t>& shape) {
      return r % 2 == 0 ? comm().empty(shape, torch::kFloat32) : torch::empty(shape);
    };
    const auto all = all_values(size(), {n}, torch::kFloat32);
    const auto reduced_tensor = tensor(rank(), {n}).copy_(all[static_cast<size_t>(rank())]);
    const auto gathered = tensor(rank() + 1, {size(), n});
    gathered[rank()].copy_(reduced_tensor);
    const auto part = tensor(rank() + 1, {n});
    // On one rank alone the input is still being worked on by the operation before.
    Work one = comm().all_gather_async(gathered, gathered[rank()]);
    Work two = comm().reduce_scatter_async(part, rank() == 1 ? gathered : gathered.clone());
    Work three = comm().all_reduce_async(reduced_tensor);
    while (!(one.is_done() && two.is_done() && three.is_done())) {
    }
    EXPECT_TRUE(torch::equal(gathered, torch::stack(all)));
    EXPECT_TRUE(torch::equal(reduced_tensor, reduced(all, ReduceOp::kSum)));
  }
}

TEST_F(CommunicatorTest, WorkMayOutliveItsCommunicator) {
  auto tensor = torch::ones({3'000'000});
  Work work;
  {
    const auto part = comm().split(0);
    work = part->all_reduce_async(tensor);
  }
  work.wait();
  EXPECT_TRUE((tensor == static_cast<double>(size())).all().item<bool>());
}

/// What lies outside of its memory is copied: the copies are not kept for each.
TEST_F(CommunicatorTest, FinishedWorkThatIsKeptHoldsNoMemory) {
  auto tensor = torch::ones({1'000'000});
  std::vector<Work> works;
  const int64_t before = test::resident_bytes();
  for (int i = 0; i < 30; ++i) {
    works.push_back(comm().all_reduce_async(tensor, ReduceOp::kMax));
    works.back().wait();
  }
  EXPECT_LT(test::resident_bytes() - before, int64_t{60} << 20);
}

/// More than a rank can be ahead of the others, the middle ones on the same memory.
TEST_F(CommunicatorTest, ManyOperationsUnderWayKeepTheirOrder) {
  constexpr int kMany = 200;
  std::vector<torch::Tensor> tensors;
  std::vector<Work> works;
  const auto chained = comm().empty({30'000}, torch::kFloat64).fill_(1);
  for (int i = 0; i < kMany; ++i) {
    tensors.push_back(i % 2 == 0 ? torch::full({5'000}, static_cast<double>(i), torch::kFloat64)
                                 : comm().empty({5'000}, torch::kFloat64).fill_(i));
    works.push_back(comm().all_reduce_async(tensors.back()));
    if (i % 10 == 5) {
      works.push_back(comm().all_reduce_async(chained, ReduceOp::kSum));
    }
    if (i % 50 == 7 && rank() == 1) {
      works.back().wait();  // one rank's time
    }
  }
  for (auto& work : works) {
    work.wait();
  }
  for (int i = 0; i < kMany; ++i) {
    const auto& tensor = tensors[static_cast<size_t>(i)];
    EXPECT_TRUE((tensor == static_cast<double>(i) * size()).all().item<bool>()) << i;
  }
  EXPECT_TRUE((chained == std::pow(size(), kMany / 10)).all().item<bool>()) << chained[0];
}

TEST_F(CommunicatorTest, PollBringsAnOperationToItsEnd) {
  auto tensor = torch::full({500'000}, 1.0F);
  Work work = comm().all_reduce_async(tensor);
  while (!work.is_done()) {
    comm().poll();
  }
  EXPECT_EQ(tensor.sum().item<float>(), 500'000.0F * static_cast<float>(size()));
}

TEST_F(CommunicatorTest, SplitMakesCommunicatorsOfEqualColors) {
  const auto part = comm().split(rank() % 2, -rank());
  std::vector<int> members;
  for (int r = size() - 1; r >= 0; --r) {
    if (r % 2 == rank() % 2) {
      members.push_back(r);
    }
  }
  ASSERT_EQ(part->size(), static_cast<int>(members.size()));
  EXPECT_EQ(members[static_cast<size_t>(part->rank())], rank());
  auto tensor = torch::tensor({rank()}, torch::kInt64);
  part->all_reduce(tensor);
  int sum = 0;
  for (const int r : members) {
    sum += r;
  }
  EXPECT_EQ(tensor.item<int64_t>(), sum);
}

TEST_F(CommunicatorTest, AParameterThatRequiresGradientsIsReducedToo) {
  auto parameter = torch::ones({4}, torch::requires_grad());
  comm().all_reduce(parameter);
  comm().all_reduce_async(parameter, ReduceOp::kMean).wait();
  EXPECT_EQ(parameter[0].item<float>(), static_cast<float>(size()));
}

/// More bytes than an int counts. Slow: TRAINER_LARGE_BUFFERS=1 asks for it.
TEST_F(CommunicatorTest, BuffersOfMoreThan2GiB) {
  if (std::getenv("TRAINER_LARGE_BUFFERS") == nullptr) {
    GTEST_SKIP() << "run long_communicator_test";
  }
  constexpr int64_t kBytes = (int64_t{2} << 30) + 4099;
  const auto is_right = [](const torch::Tensor& tensor, int64_t at, int64_t value) {
    return tensor[at].item<int64_t>() == value && tensor[-1].item<int64_t>() == value;
  };
  auto tensor = torch::full({kBytes}, rank() + 1, torch::kUInt8);
  comm().all_reduce(tensor);
  EXPECT_TRUE(is_right(tensor, int64_t{1} << 31, size() * (size() + 1) / 2));
  tensor.fill_(rank() + 1);
  comm().all_reduce_async(tensor, ReduceOp::kMax).wait();
  EXPECT_TRUE(is_right(tensor, int64_t{1} << 31, size()));
  tensor.fill_(rank());
  comm().broadcast(tensor, size() - 1);
  EXPECT_TRUE(is_right(tensor, int64_t{1} << 31, size() - 1));
  if (rank() < 2 && size() > 1) {
    tensor.fill_(rank() + 5);
    rank() == 0 ? comm().send(tensor, 1) : comm().recv(tensor, 0);
    EXPECT_TRUE(is_right(tensor, int64_t{1} << 31, 5));
  }
  tensor.reset();
  auto part = torch::full({kBytes / size()}, rank() + 1, torch::kUInt8);
  auto whole = torch::empty({size(), kBytes / size()}, torch::kUInt8);
  comm().all_gather(whole, part);
  EXPECT_TRUE(is_right(whole[size() - 1], kBytes / size() - 1, size()));
  comm().reduce_scatter(part, whole);
  EXPECT_TRUE(is_right(part, 0, size() * (rank() + 1)));
}

template <class E, class F>
std::string message_of(const F& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(CommunicatorTest, TensorsThatDoNotFitAreRefused) {
  EXPECT_EQ(message_of<UsageError>([] {
              comm().all_reduce(torch::zeros({4, 6}).t());
            }),
            "all_reduce: the tensor of shape [6, 4] is not contiguous. Pass tensor.contiguous(), "
            "and copy the result back.");
  EXPECT_EQ(message_of<UsageError>([] { comm().all_reduce(torch::zeros({2}).to_sparse()); }),
            "all_reduce: the tensor of shape [2] is sparse. Pass tensor.contiguous(), and copy the "
            "result back.");
  EXPECT_EQ(message_of<UsageError>([] { comm().all_reduce({}); }),
            "all_reduce: the tensor is undefined.");
  EXPECT_EQ(message_of<UsageError>(
                [] { comm().all_reduce(torch::zeros({2}, torch::kInt64), ReduceOp::kMean); }),
            "all_reduce: the mean of Long is not there. Convert the tensor first.");
  EXPECT_EQ(message_of<UsageError>([] { comm().broadcast(torch::zeros({2}), 99); }),
            c10::str("broadcast: there is no rank 99; there are ", size(), "."));
  EXPECT_EQ(message_of<UsageError>(
                [] { comm().all_gather(torch::zeros({size() * 2}), torch::zeros({3})); }),
            c10::str("all_gather: an input of 3 elements and an output of ", size() * 2,
                     " do not go together among ", size(), " ranks."));
  EXPECT_EQ(message_of<UsageError>([] {
              comm().all_gather(torch::zeros({size()}), torch::zeros({1}, torch::kInt64));
            }),
            "all_gather: the input is Long, the output Float. Give both one dtype.");
}

TEST_F(CommunicatorTest, RanksThatDifferAreNamed) {
  if (size() < 2) {
    GTEST_SKIP() << "one rank agrees with itself";
  }
  auto tensor = torch::zeros({rank() == 1 ? 5 : 4}, rank() == 1 ? torch::kInt64 : torch::kFloat32);
  const auto text = message_of<CommError>([&] { comm().all_reduce(tensor); });
  EXPECT_NE(text.find("the ranks called different operations:\n  rank 0: all_reduce (sum) of 4 "
                      "Float elements\n  rank 1: all_reduce (sum) of 5 Long elements"),
            std::string::npos)
      << text;
  const auto other = message_of<CommError>([&] {
    if (rank() == 0) {
      comm().barrier();
    } else {
      comm().broadcast(tensor);
    }
  });
  EXPECT_NE(other.find("rank 0: barrier\n  rank 1: broadcast from rank 0 of"), std::string::npos)
      << other;
}

}  // namespace
}  // namespace trainer
