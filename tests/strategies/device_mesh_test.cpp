#include <strategies/comm/device_mesh.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/communicator_fixture.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

class DeviceMeshTest : public test::CommunicatorFixture {
 protected:
  /// The ranks along an axis through this one.
  std::vector<int64_t> line(const Communicator& axis, Communicator& of) {
    auto ranks = torch::empty({axis.size()}, torch::kInt64);
    of.all_gather(ranks, torch::full({1}, rank(), torch::kInt64));
    return {ranks.data_ptr<int64_t>(), ranks.data_ptr<int64_t>() + ranks.numel()};
  }
};

TEST_F(DeviceMeshTest, TheLastAxisCountsFastest) {
  const int half = size() / 2;
  const DeviceMesh mesh(comm(), {{"replicate", 2}, {"shard", half}});
  auto& shard = mesh.axis("shard");
  auto& replicate = mesh.axis("replicate");
  std::vector<int64_t> expected;
  for (int i = 0; i < half; ++i) {
    expected.push_back(rank() / half * half + i);
  }
  EXPECT_EQ(line(shard, shard), expected);
  EXPECT_EQ(line(replicate, replicate),
            (std::vector<int64_t>{rank() % half, rank() % half + half}));
}

TEST_F(DeviceMeshTest, SizesThatDoNotFitAreRefused) {
  const auto error = test::thrown<ConfigError>([&] {
    DeviceMesh(comm(), {{"replicate", 3}, {"shard", 7}});
  });
  EXPECT_NE(
      error.find("{replicate: 3, shard: 7} does not hold the " + std::to_string(size()) + " ranks"),
      std::string::npos)
      << error;
  const DeviceMesh mesh(comm(), {{"shard", size()}});
  EXPECT_NE(test::thrown<UsageError>([&] { (void)mesh.axis("tensor"); }).find("'tensor'"),
            std::string::npos);
}

}  // namespace
}  // namespace trainer
