#include <trainer/core/batch.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

const torch::Tensor kX = torch::zeros({3, 2});
const torch::Tensor kY = torch::ones({3});

TEST(Batch, GivesItsTensorsByPosition) {
  const Batch batch{kX, kY};
  auto [x, y] = batch.unpack<2>();
  EXPECT_TRUE(x.is_same(kX));
  EXPECT_TRUE(y.is_same(kY));
  EXPECT_TRUE(batch[size_t{1}].is_same(kY));
  EXPECT_EQ(thrown<UsageError>([&] { (void)batch.unpack<3>(); }),
            "Batch: unpack<3>() on a batch of 2 tensors. Unpack as many as the data set yields.");
  EXPECT_EQ(thrown<UsageError>([&] { (void)batch[size_t{2}]; }),
            "Batch: no tensor 2; the batch holds 2 (0 to 1).");
}

TEST(Batch, GivesItsTensorsByName) {
  const Batch batch({kX, kY}, {"ids", "labels"});
  EXPECT_TRUE(batch["labels"].is_same(kY));
  EXPECT_EQ(batch.names(), (std::vector<std::string>{"ids", "labels"}));
  EXPECT_EQ(thrown<UsageError>([&] { (void)batch["label"]; }),
            "Batch: no tensor named 'label'. It has: ids, labels.");
  EXPECT_EQ(thrown<UsageError>([] {
              (void)Batch{kX, kY}["ids"];
            }),
            "Batch: no tensor named 'ids'; this data set gives no names, use batch[0] or "
            "batch.unpack<2>().");
  EXPECT_EQ(thrown<UsageError>([] {
              Batch({kX, kY}, {"ids"});
            }),
            "Batch: 2 tensors but 1 names. Give every tensor a name, or none.");
}

TEST(Batch, CountsSamplesInItsFirstTensor) {
  EXPECT_EQ((Batch{kX, torch::zeros({5})}).size(), 3);
  EXPECT_EQ(Batch{torch::tensor(1.0)}.size(), 1);
  EXPECT_EQ(Batch{torch::zeros({0, 4})}.size(), 0);
  EXPECT_EQ(Batch().size(), 0);
  EXPECT_TRUE(Batch().empty());
}

TEST(Batch, OnItsOwnDeviceSharesItsTensors) {
  const Batch batch({kX, kY}, {"ids", "labels"});
  const Batch moved = batch.to(torch::kCPU);
  EXPECT_TRUE(moved["ids"].is_same(kX));
  EXPECT_EQ(batch.to(torch::kMeta)["labels"].device(), torch::Device(torch::kMeta));
}

TEST(Batch, HasThePartsOfACombinedLoader) {
  const Batch batch = Batch::of_parts(
      {Batch{torch::zeros({3, 2})}, Batch(), Batch{torch::ones({4}), torch::zeros({4})}});
  EXPECT_EQ(batch.num_parts(), 3);
  EXPECT_EQ(batch.size(), 7);
  EXPECT_FALSE(batch.empty());
  EXPECT_TRUE(batch.part(1).empty());
  EXPECT_EQ(batch.to(torch::kMeta).part(2)[1].device(), torch::Device(torch::kMeta));
  EXPECT_EQ(test::thrown<UsageError>([&] { (void)batch.part(3); }),
            "Batch: no part 3; the batch has 3, counted from 0.");
  EXPECT_EQ(test::thrown<UsageError>([&] { (void)batch.part(2).part(0); }),
            "Batch: no part 0; this batch comes from one loader, not from a CombinedLoader.");
  EXPECT_EQ(test::thrown<UsageError>([&] { (void)batch.unpack<2>(); }),
            "Batch: unpack<2>() on a batch of 3 parts. Unpack its parts: "
            "batch.part(0).unpack<2>().");
}

}  // namespace
}  // namespace trainer
