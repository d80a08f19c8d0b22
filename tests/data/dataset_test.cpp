#include <trainer/data/dataset.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const auto x = a.contiguous();
  const auto y = b.contiguous();
  return x.dtype() == y.dtype() && x.sizes() == y.sizes() &&
         (x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0);
}

/// Sample i is what the function gives for it.
class FunctionDataset : public Dataset {
 public:
  FunctionDataset(int64_t size, std::function<Batch(int64_t)> sample)
      : size_(size), sample_(std::move(sample)) {}
  int64_t size() const override { return size_; }
  Batch get(int64_t index) const override { return sample_(index); }

 private:
  int64_t size_;
  std::function<Batch(int64_t)> sample_;
};

/// Has get_batch() only, and remembers how it was called.
class BatchOnlyDataset : public Dataset {
 public:
  int64_t size() const override { return 100; }
  Batch get_batch(std::span<const int64_t> indices) const override {
    calls.emplace_back(indices.begin(), indices.end());
    return {torch::tensor(calls.back())};
  }
  mutable std::vector<std::vector<int64_t>> calls;
};

std::vector<int64_t> indices_of(const Subset& subset) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i < subset.size(); ++i) {
    result.push_back(subset.get(i)[0].item<int64_t>());
  }
  return result;
}

std::shared_ptr<const Dataset> counting_dataset(int64_t size) {
  return std::make_shared<FunctionDataset>(
      size, [](int64_t index) { return Batch{torch::tensor(index)}; });
}

TEST(Dataset, StacksSamplesInTheOrderAskedFor) {
  const FunctionDataset dataset(10, [](int64_t index) {
    return Batch({torch::full({2, 3}, static_cast<double>(index)), torch::tensor(index)},
                 {"x", "y"});
  });
  const Batch batch = dataset.get_batch(std::vector<int64_t>{7, 0, 7});
  EXPECT_EQ(batch.names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(batch["x"].sizes(), (std::vector<int64_t>{3, 2, 3}));
  EXPECT_TRUE(torch::equal(batch["y"], torch::tensor({7, 0, 7})));
  EXPECT_TRUE(torch::equal(batch["x"].select(1, 0).select(1, 0),
                           torch::tensor({7, 0, 7}, batch["x"].options())));
}

TEST(Dataset, NamesBothSamplesThatDoNotStack) {
  const FunctionDataset shapes(9, [](int64_t index) {
    return Batch{torch::zeros({3, index == 4 ? 5 : 4}), torch::tensor(index)};
  });
  EXPECT_EQ(thrown<UsageError>([&] {
              shapes.get_batch(std::vector<int64_t>{1, 2, 4});
            }),
            "trainer::(anonymous namespace)::FunctionDataset: sample 4 does not stack with sample "
            "1: Float [3, 5], Long [] against Float [3, 4], Long [].\n  Make all samples alike in "
            "get(), or override get_batch() to pad them.");

  const FunctionDataset names(
      9, [](int64_t index) { return Batch({torch::zeros({2})}, {index == 0 ? "ids" : "mask"}); });
  EXPECT_EQ(thrown<UsageError>([&] {
              names.get_batch(std::vector<int64_t>{0, 1});
            }),
            "trainer::(anonymous namespace)::FunctionDataset: sample 1 does not stack with sample "
            "0: mask: Float [2] against ids: Float [2].\n  Make all samples alike in get(), or "
            "override get_batch() to pad them.");

  const FunctionDataset dtypes(9, [](int64_t index) {
    return Batch{torch::zeros({2}, index == 0 ? torch::kFloat32 : torch::kFloat64)};
  });
  EXPECT_THROW(dtypes.get_batch(std::vector<int64_t>{0, 1}), UsageError);

  const FunctionDataset counts(
      9, [](int64_t index) { return index == 0 ? Batch{torch::zeros({2})} : Batch{}; });
  EXPECT_EQ(thrown<UsageError>([&] {
              counts.get_batch(std::vector<int64_t>{0, 1});
            }),
            "trainer::(anonymous namespace)::FunctionDataset: sample 1 does not stack with sample "
            "0: no tensors against Float [2].\n  Make all samples alike in get(), or override "
            "get_batch() to pad them.");
}

TEST(Dataset, SaysWhatToOverride) {
  EXPECT_EQ(thrown<UsageError>([] { BatchOnlyDataset().get(0); }),
            "trainer::(anonymous namespace)::BatchOnlyDataset: has no get(). Override get() in "
            "trainer::(anonymous namespace)::BatchOnlyDataset, or fetch by get_batch().");
  EXPECT_EQ(thrown<UsageError>([] { counting_dataset(3)->get_batch({}); }),
            "trainer::(anonymous namespace)::FunctionDataset: get_batch() of no samples.");
}

TEST(TensorDataset, GathersWhatIndexSelectDoes) {
  constexpr int64_t kSize = 23;
  std::mt19937_64 random(1);
  std::vector<torch::Tensor> tensors;
  for (const auto dtype : {torch::kBool, torch::kUInt8, torch::kInt16, torch::kInt64,
                           torch::kBFloat16, torch::kFloat32, torch::kComplexDouble}) {
    for (const auto& row : std::vector<std::vector<int64_t>>{{}, {1}, {3, 5}, {2, 0}, {64}}) {
      std::vector<int64_t> shape = {kSize};
      shape.insert(shape.end(), row.begin(), row.end());
      tensors.push_back(torch::randint(0, 100, shape).to(dtype));
    }
  }
  tensors.push_back(torch::randn({5, kSize}).t());
  tensors.push_back(torch::randn({1, 4}).expand({kSize, 4}));
  tensors.push_back(torch::randn({2 * kSize, 2}).slice(0, 1, std::nullopt, 2));
  tensors.push_back(torch::randn({kSize, 2}, torch::kComplexFloat).conj());
  tensors.push_back(torch::_neg_view(torch::randn({kSize, 2})));
  tensors.push_back(torch::randn({kSize, 2}).requires_grad_());

  const TensorDataset dataset(tensors);
  EXPECT_EQ(dataset.size(), kSize);
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<int64_t> indices(random() % 40);
    for (auto& index : indices) {
      index = static_cast<int64_t>(random() % kSize);
    }
    if (trial % 3 == 0) {  // runs of neighbours
      std::sort(indices.begin(), indices.end());
    }
    const Batch batch = dataset.get_batch(indices);
    const int64_t one = static_cast<int64_t>(random() % kSize);
    const Batch sample = dataset.get(one);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto expected = tensors[i].detach().resolve_conj().resolve_neg();
      ASSERT_TRUE(same_bits(batch[i], expected.index_select(0, torch::tensor(indices)))) << i;
      ASSERT_TRUE(same_bits(sample[i], expected[one])) << i;
      ASSERT_FALSE(batch[i].requires_grad());
      ASSERT_TRUE(batch[i].is_contiguous());
    }
  }
}

TEST(TensorDataset, BatchesAreCopies) {
  const TensorDataset dataset({torch::arange(4)});
  dataset.get_batch(std::vector<int64_t>{0, 1, 2, 3})[0].fill_(9);
  dataset.get(2)[0].fill_(9);
  EXPECT_TRUE(
      torch::equal(dataset.get_batch(std::vector<int64_t>{0, 1, 2, 3})[0], torch::arange(4)));
}

TEST(TensorDataset, BatchesTakePartInAutograd) {
  const TensorDataset dataset({torch::ones({4, 2})});
  auto x = dataset.get_batch(std::vector<int64_t>{1, 2})[0];
  x.requires_grad_();
  (x * 3).sum().backward();
  EXPECT_TRUE(torch::equal(x.grad(), torch::full({2, 2}, 3.0)));
}

TEST(TensorDataset, KeepsNames) {
  const TensorDataset dataset({torch::arange(4), torch::zeros({4})}, {"ids", "label"});
  EXPECT_EQ(dataset.get(3)["ids"].item<int64_t>(), 3);
  EXPECT_EQ(dataset.get_batch(std::vector<int64_t>{2})["label"].size(0), 1);
}

TEST(TensorDataset, RefusesTensorsThatDoNotFit) {
  const auto error = [](std::vector<torch::Tensor> tensors, std::vector<std::string> names = {}) {
    return thrown<Error>([&] { TensorDataset(tensors, names); });
  };
  EXPECT_EQ(error({}), "TensorDataset: no tensors. Give at least one, [samples, ...].");
  EXPECT_EQ(error({torch::zeros({0, 3})}),
            "TensorDataset: tensor 0 has shape [0, 3]: no samples, which the first dimension "
            "counts.\n  Look at what the tensors were read from or selected by.");
  EXPECT_EQ(error({torch::zeros({5, 3}), torch::zeros({4})}),
            "TensorDataset: tensor 1 has shape [4], tensor 0 [5, 3]. The first dimension is the "
            "sample and has to be the same for all.");
  EXPECT_EQ(error({torch::zeros({})}),
            "TensorDataset: tensor 0 has shape [], tensor 0 []. The first dimension is the sample "
            "and has to be the same for all.");
  EXPECT_EQ(error({torch::zeros({5}), torch::Tensor()}),
            "TensorDataset: tensor 1 is undefined. Give dense tensors.");
  EXPECT_EQ(error({torch::zeros({5, 5}).to_sparse()}),
            "TensorDataset: tensor 0 is SparseCPUFloatType. Give dense tensors.");
  EXPECT_EQ(error({torch::zeros({5})}, {"x", "y"}),
            "TensorDataset: 1 tensors but 2 names. Give every tensor a name, or none.");
  EXPECT_THROW(TensorDataset(std::vector<torch::Tensor>{}), DataError);
  EXPECT_THROW(TensorDataset({torch::zeros({5})}, {"x", "y"}), UsageError);
}

TEST(TensorDataset, RefusesIndicesOutside) {
  const TensorDataset dataset({torch::arange(4)});
  EXPECT_EQ(thrown<UsageError>([&] { dataset.get(4); }),
            "TensorDataset: no sample 4; it has 4, counted from 0.");
  EXPECT_EQ(thrown<UsageError>([&] {
              dataset.get_batch(std::vector<int64_t>{0, -1});
            }),
            "TensorDataset: no sample -1; it has 4, counted from 0.");
}

TEST(Subset, FetchesABatchByOneCallOfTheInnerDataSet) {
  const auto inner = std::make_shared<BatchOnlyDataset>();
  const Subset subset(inner, {50, 3, 99, 0});
  EXPECT_EQ(subset.size(), 4);
  const Batch batch = subset.get_batch(std::vector<int64_t>{2, 0, 0, 3});
  EXPECT_EQ(inner->calls, (std::vector<std::vector<int64_t>>{{99, 50, 50, 0}}));
  EXPECT_TRUE(torch::equal(batch[0], torch::tensor({99, 50, 50, 0})));

  const Subset nested(std::make_shared<Subset>(subset), {3, 1});
  nested.get_batch(std::vector<int64_t>{0, 1});
  EXPECT_EQ(inner->calls.back(), (std::vector<int64_t>{0, 3}));
}

TEST(Subset, FetchesOneSample) {
  const Subset subset(counting_dataset(10), {5, 2});
  EXPECT_EQ(indices_of(subset), (std::vector<int64_t>{5, 2}));
}

TEST(Subset, RefusesIndicesOutside) {
  EXPECT_EQ(thrown<UsageError>([] {
              Subset(counting_dataset(10), {0, 10});
            }),
            "trainer::(anonymous namespace)::FunctionDataset: no sample 10; it has 10, counted "
            "from 0.");
  EXPECT_THROW(Subset(counting_dataset(10), {-1}), UsageError);
  EXPECT_EQ(thrown<UsageError>([] { Subset(nullptr, {}); }), "Subset: the data set is null.");
  const Subset subset(counting_dataset(10), {5, 2});
  EXPECT_EQ(thrown<UsageError>([&] { subset.get(2); }),
            "Subset: no sample 2; it has 2, counted from 0.");
  EXPECT_EQ(thrown<UsageError>([&] { subset.get_batch(std::vector<int64_t>{-1}); }),
            "Subset: no sample -1; it has 2, counted from 0.");
}

TEST(RandomSplit, PutsEverySampleInExactlyOnePart) {
  std::mt19937_64 random(3);
  for (int64_t size = 20; size < 220; ++size) {
    std::vector<double> fractions(1 + random() % 4);
    double sum = 0;
    for (auto& fraction : fractions) {
      fraction = 1 + static_cast<double>(random() % 100) / 25;
      sum += fraction;
    }
    for (auto& fraction : fractions) {
      fraction /= sum;
    }
    const auto parts = random_split(counting_dataset(size), fractions, random());
    ASSERT_EQ(parts.size(), fractions.size());
    std::multiset<int64_t> seen;
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto indices = indices_of(*parts[i]);
      seen.insert(indices.begin(), indices.end());
      ASSERT_LE(std::abs(static_cast<double>(parts[i]->size()) -
                         fractions[i] * static_cast<double>(size)),
                1.0);
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()), size);
    ASSERT_EQ(static_cast<int64_t>(std::set<int64_t>(seen.begin(), seen.end()).size()), size);
  }
}

TEST(RandomSplit, GivesTheSamePartsForTheSameSeed) {
  const auto parts = random_split(counting_dataset(10), {0.7, 0.3}, 42);
  EXPECT_EQ(indices_of(*parts[0]), (std::vector<int64_t>{1, 8, 4, 9, 2, 3, 6}));
  EXPECT_EQ(indices_of(*parts[1]), (std::vector<int64_t>{5, 0, 7}));
  const auto other = random_split(counting_dataset(10), {0.7, 0.3}, 43);
  EXPECT_NE(indices_of(*other[0]), indices_of(*parts[0]));
}

TEST(RandomSplit, RefusesFractionsThatDoNotAddUp) {
  const auto error = [](const std::vector<double>& fractions) {
    return thrown<UsageError>([&] { random_split(counting_dataset(10), fractions, 0); });
  };
  EXPECT_EQ(error({0.8, 0.3}),
            "random_split: fractions [0.8, 0.3] add up to 1.1; they have to be above 0 and add up "
            "to 1.");
  EXPECT_EQ(error({1.5, -0.5}),
            "random_split: fractions [1.5, -0.5] add up to 1; they have to be above 0 and add up "
            "to 1.");
  EXPECT_EQ(error({NAN, 0.5}),
            "random_split: fractions [nan, 0.5] add up to nan; they have to be above 0 and add up "
            "to 1.");
  EXPECT_EQ(error({}),
            "random_split: fractions [] add up to 0; they have to be above 0 and add up to 1.");
}

TEST(RandomSplit, RefusesEmptyParts) {
  EXPECT_EQ(thrown<DataError>([] {
              random_split(counting_dataset(10), {0.97, 0.02, 0.01}, 0);
            }),
            "random_split: part 1 would be empty: 0.02 of the 10 samples of trainer::(anonymous "
            "namespace)::FunctionDataset. Give it a larger fraction (one sample is 0.1), or more "
            "samples.");
  EXPECT_EQ(thrown<DataError>([] {
              random_split(counting_dataset(1), {0.7, 0.15, 0.15}, 0);
            }),
            "random_split: trainer::(anonymous namespace)::FunctionDataset has size 1, too few "
            "samples for 3 parts. Give it more samples, or ask for fewer parts.");
  EXPECT_EQ(thrown<DataError>([] { random_split(counting_dataset(0), {1.0}, 0); }),
            "random_split: trainer::(anonymous namespace)::FunctionDataset has size 0, too few "
            "samples for 1 parts. Give it more samples, or ask for fewer parts.");
  EXPECT_EQ(thrown<UsageError>([] { random_split(nullptr, {1.0}, 0); }),
            "random_split: the data set is null.");
}

}  // namespace
}  // namespace trainer
