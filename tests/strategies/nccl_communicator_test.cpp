// The Communicator for tensors on GPUs: what communicator_test.cpp asks of the one for tensors on
// the processor, and what streams add to it. Each rank's values are a function of its rank, so that
// every rank can work out what the result has to be. Without a GPU for each rank all of it is
// skipped, and counted.

#include <strategies/comm/cuda_library.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <vector>

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <strategies/comm/communicator.h>
#include <tests/support/thrown.h>
#include <trainer/core/error.h>
#include <trainer/world.h>

#include <tests/support/rank_values.h>

namespace trainer {
namespace {

/// "" where this rank can have a GPU of its own.
std::string reason_to_skip() {
  std::string why_not;
  if (!is_cuda_available(&why_not)) {
    return why_not;
  }
  const auto devices = static_cast<int>(torch::cuda::device_count());
  return devices >= world().local_size() || std::getenv("CUDA_VISIBLE_DEVICES") != nullptr
             ? ""
             : c10::str(world().local_size(), " ranks, but CUDA sees ", devices, " GPUs");
}

using test::kFloats, test::kSizes, test::reductions, test::values;

class NCCLCommunicatorTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (const auto& text : world().all_gather(reason_to_skip())) {
      skip_ = skip_.empty() ? text : skip_;
    }
    if (skip_.empty()) {
      comm_ = cuda_world_communicator();
    }
  }
  static void TearDownTestSuite() {
    if (!skip_.empty() && world().is_global_zero()) {
      std::cout << "GPU tests skipped: "
                << testing::UnitTest::GetInstance()->current_test_suite()->skipped_test_count()
                << ", because " << skip_ << std::endl;
    }
    comm_.reset();
  }
  void SetUp() override {
    if (!skip_.empty()) {
      GTEST_SKIP() << skip_;
    }
    ASSERT_NE(comm_, nullptr);
  }

  static Communicator& comm() { return *comm_; }
  static int rank() { return comm().rank(); }
  static int size() { return comm().size(); }
  static torch::Device gpu() {
    return {torch::kCUDA, c10::impl::VirtualGuardImpl(torch::kCUDA).getDevice().index()};
  }
  static torch::TensorOptions on_gpu(torch::ScalarType dtype = torch::kFloat32) {
    return torch::dtype(dtype).device(gpu());
  }

  /// What this rank contributes.
  static torch::Tensor own_values(std::vector<int64_t> shape, torch::ScalarType dtype) {
    return values(rank(), std::move(shape), dtype).to(gpu());
  }
  /// The reduction of what all ranks contribute.
  static torch::Tensor reduced(const std::vector<int64_t>& shape, torch::ScalarType dtype,
                               ReduceOp op) {
    return test::reduced(test::all_values(size(), shape, dtype), op);
  }
  /// Equal but for the order of sums; short formats are rounded at each of them.
  static void expect_close(const torch::Tensor& actual, const torch::Tensor& expected,
                           const std::string& what) {
    ASSERT_EQ(actual.device(), gpu()) << what;
    ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
    ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
    double tolerance = 0;
    switch (actual.scalar_type()) {
      case torch::kFloat64:
      case torch::kComplexDouble: tolerance = 1e-14; break;
      case torch::kFloat32:
      case torch::kComplexFloat: tolerance = 1e-6; break;
      case torch::kFloat16: tolerance = 1e-3 * size(); break;
      case torch::kBFloat16: tolerance = 1e-2 * size(); break;
      default: break;
    }
    EXPECT_TRUE(torch::allclose(actual.cpu(), expected, tolerance, tolerance, /*equal_nan=*/true))
        << what << "\n"
        << (actual.numel() < 20 ? c10::str(actual, " against ", expected) : "");
  }

 private:
  static inline std::unique_ptr<Communicator> comm_;
  static inline std::string skip_;
};

TEST_F(NCCLCommunicatorTest, AllReduceIsTheReductionOverTheRanksForEveryDtypeOpAndSize) {
  for (const auto& [dtype, op] : reductions()) {
    for (const int64_t n : kSizes) {
      const std::string what =
          c10::str("op ", static_cast<int>(op), " of ", n, " ", c10::toString(dtype));
      const auto expected = reduced({n}, dtype, op);
      auto blocking = own_values({n}, dtype);
      comm().all_reduce(blocking, op);
      expect_close(blocking, expected, what);
      auto started = own_values({n}, dtype);
      comm().all_reduce_async(started, op).wait();
      expect_close(started, expected, what);
    }
  }
}

TEST_F(NCCLCommunicatorTest, EveryRankGetsTheSameBits) {
  for (const int64_t n : {5, 40'000, 1'000'001}) {
    auto tensor = own_values({n}, torch::kFloat32);
    comm().all_reduce(tensor);
    auto all = torch::empty({size(), n}, on_gpu());
    comm().all_gather(all, tensor);
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(all[r], tensor)) << "rank " << r << ", " << n << " elements";
    }
  }
}

TEST_F(NCCLCommunicatorTest, AMinimumOrMaximumWithNaNIsNaN) {
  for (const auto dtype : kFloats) {
    for (const auto op : {ReduceOp::kMin, ReduceOp::kMax}) {
      for (int with_nan = 0; with_nan < size(); ++with_nan) {
        auto tensor = torch::full({3}, static_cast<double>(rank()), on_gpu(dtype));
        if (rank() == with_nan) {
          tensor[1] = std::numeric_limits<double>::quiet_NaN();
        }
        comm().all_reduce(tensor, op);
        EXPECT_TRUE(std::isnan(tensor[1].item<double>())) << c10::toString(dtype);
        EXPECT_EQ(tensor[0].item<double>(), op == ReduceOp::kMin ? 0 : size() - 1);
      }
    }
  }
}

TEST_F(NCCLCommunicatorTest, ReduceScatterGivesEachRankItsPartAndLeavesTheInput) {
  for (const auto& [dtype, op] : reductions()) {
    for (const int64_t n : {0, 1, 77, 200'001}) {
      const auto input = own_values({size(), n}, dtype);
      const auto before = input.clone();
      auto output = torch::empty({n}, on_gpu(dtype));
      comm().reduce_scatter(output, input, op);
      expect_close(output, reduced({size(), n}, dtype, op)[rank()],
                   c10::str("op ", static_cast<int>(op), " of ", n, " ", c10::toString(dtype)));
      EXPECT_TRUE(torch::equal(input, before));
    }
  }
}

TEST_F(NCCLCommunicatorTest, AllGatherPutsTheRanksOneAfterTheOther) {
  for (const auto dtype : {torch::kFloat32, torch::kBool, torch::kInt16, torch::kComplexFloat,
                           torch::kFloat8_e4m3fn}) {
    for (const int64_t n : {0, 1, 77, 1'200'001}) {
      const auto bytes = [](const torch::Tensor& tensor) {
        return tensor.view(torch::kUInt8).cpu();
      };
      std::vector<torch::Tensor> all;
      for (int r = 0; r < size(); ++r) {
        all.push_back(values(r, {n}, dtype));
      }
      auto gathered = torch::empty({size(), n}, on_gpu(dtype));
      comm().all_gather(gathered, all[static_cast<size_t>(rank())].to(gpu()));
      auto in_place = torch::empty({size(), n}, on_gpu(dtype));
      in_place[rank()].copy_(all[static_cast<size_t>(rank())]);
      comm().all_gather_async(in_place, in_place[rank()]).wait();
      for (int r = 0; r < size(); ++r) {
        EXPECT_TRUE(torch::equal(bytes(gathered[r]), bytes(all[static_cast<size_t>(r)])));
        EXPECT_TRUE(torch::equal(bytes(in_place[r]), bytes(all[static_cast<size_t>(r)])));
      }
    }
  }
}

TEST_F(NCCLCommunicatorTest, AllGatherUnevenTakesAnyShapes) {
  const auto shape = [](int r) {
    return r == 1 ? std::vector<int64_t>{0, 4} : std::vector<int64_t>(r % 3, r + 2);
  };
  const auto all = comm().all_gather_uneven(own_values(shape(rank()), torch::kFloat32));
  ASSERT_EQ(all.size(), static_cast<size_t>(size()));
  for (int r = 0; r < size(); ++r) {
    expect_close(all[static_cast<size_t>(r)], values(r, shape(r), torch::kFloat32), c10::str(r));
  }
}

TEST_F(NCCLCommunicatorTest, BroadcastGivesEveryoneTheRootsTensor) {
  for (int root = 0; root < size(); ++root) {
    for (const auto dtype : {torch::kFloat32, torch::kBool, torch::kComplexDouble}) {
      for (const int64_t n : {0, 1, 77, 1'200'001}) {
        auto blocking = own_values({n}, dtype);
        comm().broadcast(blocking, root);
        EXPECT_TRUE(torch::equal(blocking.cpu(), values(root, {n}, dtype)));
        auto started = own_values({n}, dtype);
        comm().broadcast_async(started, root).wait();
        EXPECT_TRUE(torch::equal(started.cpu(), values(root, {n}, dtype)));
      }
    }
  }
}

TEST_F(NCCLCommunicatorTest, AllToAllTransposesRanksAndParts) {
  for (const int64_t n : {0, 1, 77, 600'001}) {
    auto output = torch::empty({size(), n}, on_gpu());
    comm().all_to_all(output, own_values({size(), n}, torch::kFloat32));
    for (int r = 0; r < size(); ++r) {
      EXPECT_TRUE(torch::equal(output[r].cpu(), values(r, {size(), n}, torch::kFloat32)[rank()]));
    }
  }
}

TEST_F(NCCLCommunicatorTest, AllToAllUnevenTakesPartsOfAnySize) {
  const auto part = [](int from, int to) {
    return torch::full({from * 3 + to}, static_cast<float>(10 * from + to), on_gpu());
  };
  std::vector<torch::Tensor> inputs, outputs;
  for (int r = 0; r < size(); ++r) {
    inputs.push_back(part(rank(), r));
    outputs.push_back(torch::zeros({r * 3 + rank()}, on_gpu()));
  }
  comm().all_to_all_uneven(outputs, inputs);
  for (int r = 0; r < size(); ++r) {
    EXPECT_TRUE(torch::equal(outputs[static_cast<size_t>(r)], part(r, rank())));
  }
}

TEST_F(NCCLCommunicatorTest, SendAndRecvGoFromOneRankToAnother) {
  for (int r = 1; r < size(); ++r) {
    if (rank() == 0) {
      comm().send(values(r, {1000}, torch::kFloat32).to(gpu()), r);
      auto back = torch::empty({0}, on_gpu());
      comm().recv(back, r);
    } else if (rank() == r) {
      auto tensor = torch::empty({1000}, on_gpu());
      comm().recv(tensor, 0);
      EXPECT_TRUE(torch::equal(tensor.cpu(), values(r, {1000}, torch::kFloat32)));
      comm().send(torch::empty({0}, on_gpu()), 0);
    }
  }
}

TEST_F(NCCLCommunicatorTest, RecvNamesAnotherSizeThanWasSentAndGoesOn) {
  if (size() < 2) {
    GTEST_SKIP() << "there is nobody to send to";
  }
  if (rank() == 0) {
    comm().send(torch::empty({3}, on_gpu()), 1);
  } else if (rank() == 1) {
    auto tensor = torch::empty({4}, on_gpu());
    const auto text = test::thrown<CommError>([&] { comm().recv(tensor, 0); });
    EXPECT_NE(text.find("recv of 16 bytes from rank 0: it sent 12"), std::string::npos) << text;
  }
  auto ones = torch::ones({1}, on_gpu());
  comm().all_reduce(ones);
  EXPECT_EQ(ones.item<float>(), static_cast<float>(size()));
}

TEST_F(NCCLCommunicatorTest, OperationsRunInTheOrderInWhichTheyWereStarted) {
  auto first = torch::ones({5'000'000}, on_gpu());
  auto second = torch::full({10}, static_cast<float>(rank()), on_gpu());
  Work one = comm().all_reduce_async(first);
  Work two = comm().broadcast_async(second, size() - 1);
  auto third = torch::ones({1}, on_gpu());
  comm().all_reduce(third);
  EXPECT_EQ(third.item<float>(), static_cast<float>(size()));  // waits for the third, so for all
  EXPECT_TRUE(one.is_done());
  EXPECT_TRUE(two.is_done());
  EXPECT_EQ(first.min().item<float>(), static_cast<float>(size()));
  EXPECT_EQ(second[0].item<float>(), static_cast<float>(size() - 1));
}

TEST_F(NCCLCommunicatorTest, AnOperationSeesWhatTheCurrentStreamComputesAndWaitOrdersWhatFollows) {
  const c10::impl::VirtualGuardImpl cuda(torch::kCUDA);
  for (int i = 0; i < 20; ++i) {
    const c10::StreamGuard side(cuda.getStreamFromGlobalPool(gpu()));
    auto matrix = torch::full({1000, 1000}, 1e-3, on_gpu());
    for (int k = 0; k < 5; ++k) {
      matrix = matrix.mm(torch::full({1000, 1000}, 1e-3, on_gpu()));  // stays 1e-3
    }
    auto tensor = matrix * 1000 * (rank() + 1);
    Work work = comm().all_reduce_async(tensor);
    work.wait();
    const auto after = tensor + 1;
    EXPECT_NEAR(after.mean().item<float>(), 1 + size() * (size() + 1) / 2.0, 1e-2);
  }
}

TEST_F(NCCLCommunicatorTest, MemoryThatTheCallerLetsGoOfIsNotGivenAwayBeforeTheEnd) {
  std::vector<torch::Tensor> outputs;
  std::vector<Work> works;
  for (int i = 0; i < 50; ++i) {
    auto output = torch::empty({size(), 500'000}, on_gpu());
    works.push_back(
        comm().all_gather_async(output, torch::full({500'000}, rank() * 100.0F + i, on_gpu())));
    const auto other = torch::full({500'000}, -1.0F, on_gpu());  // wants the memory of the input
    outputs.push_back(output);
  }
  for (size_t i = 0; i < works.size(); ++i) {
    works[i].wait();
    for (int r = 0; r < size(); ++r) {
      const float expected = static_cast<float>(r) * 100 + static_cast<float>(i);
      EXPECT_EQ(outputs[i][r].min().item<float>(), expected);
      EXPECT_EQ(outputs[i][r].max().item<float>(), expected);
    }
  }
}

TEST_F(NCCLCommunicatorTest, PollAndIsDoneSeeTheEndWithoutWaiting) {
  auto tensor = torch::ones({500'000}, on_gpu());
  Work work = comm().all_reduce_async(tensor);
  while (!work.is_done()) {
    comm().poll();
  }
  EXPECT_EQ(tensor.sum().item<float>(), 500'000.0F * static_cast<float>(size()));
}

TEST_F(NCCLCommunicatorTest, AWorkMayOutliveItsCommunicator) {
  Work work;
  auto tensor = torch::ones({1000}, on_gpu());
  {
    const auto part = comm().split(0);
    work = part->all_reduce_async(tensor);
  }
  work.wait();
  EXPECT_TRUE(work.is_done());
  EXPECT_EQ(tensor.sum().item<float>(), 1000.0F * static_cast<float>(size()));
}

TEST_F(NCCLCommunicatorTest, BarrierReturnsAfterTheWorkOnTheStream) {
  auto tensor = torch::ones({1'000'000}, on_gpu());
  Work work = comm().all_reduce_async(tensor);
  comm().barrier();
  EXPECT_TRUE(work.is_done());
}

TEST_F(NCCLCommunicatorTest, SplitMakesCommunicatorsOfEqualColors) {
  for (const int colors : {1, 2}) {
    const auto part = comm().split(rank() % colors, -rank());
    std::vector<int> members;
    for (int r = size() - 1; r >= 0; --r) {
      if (r % colors == rank() % colors) {
        members.push_back(r);
      }
    }
    ASSERT_EQ(part->size(), static_cast<int>(members.size()));
    EXPECT_EQ(members[static_cast<size_t>(part->rank())], rank());
    auto tensor = torch::full({1}, rank(), on_gpu(torch::kInt64));
    part->all_reduce(tensor);
    int sum = 0;
    for (const int r : members) {
      sum += r;
    }
    EXPECT_EQ(tensor.item<int64_t>(), sum);
  }
  EXPECT_EQ(test::thrown<UsageError>([] { comm().split(-1); }),
            "split: the color is -1, it must be at least 0.");
}

TEST_F(NCCLCommunicatorTest, AParameterThatRequiresGradientsIsReducedToo) {
  auto parameter = torch::ones({4}, on_gpu().requires_grad(true));
  comm().all_reduce(parameter);
  comm().all_reduce_async(parameter, ReduceOp::kMean).wait();
  comm().all_reduce(parameter, ReduceOp::kMax);
  EXPECT_EQ(parameter[0].item<float>(), static_cast<float>(size()));
}

TEST_F(NCCLCommunicatorTest, TensorsThatDoNotFitAreRefused) {
  EXPECT_EQ(test::thrown<UsageError>([] { comm().all_reduce(torch::zeros({2})); }),
            "all_reduce: the tensor is on cpu, this communicator is for cuda tensors. Move it "
            "there, or use the communicator of its device.");
  EXPECT_EQ(test::thrown<UsageError>([] {
              comm().all_reduce(torch::zeros({4, 6}, on_gpu()).t());
            }),
            "all_reduce: the tensor of shape [6, 4] is not contiguous. Pass tensor.contiguous(), "
            "and copy the result back.");
  const auto text =
      test::thrown<UsageError>([] { comm().send(torch::zeros({1}, on_gpu()), rank()); });
  EXPECT_EQ(text, c10::str("send: rank ", rank(), " is not another one of ", size(), "."));
}

}  // namespace
}  // namespace trainer
