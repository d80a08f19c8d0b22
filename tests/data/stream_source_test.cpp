#include <trainer/data/stream_source.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/data/number_data.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using nlohmann::json;
using test::Batches;
using test::epoch_of;
using test::NumberStream;
using test::rest_of;
using test::thrown;
using test::values_of;

/// Keeps its position.
class StatefulStream : public NumberStream {
 public:
  using NumberStream::NumberStream;
  json state_dict() const override { return position_; }
  void load_state_dict(const json& state) override { position_ = state.get<int64_t>(); }
};

TEST(StreamSource, BatchesUntilTheEnd) {
  for (const int64_t num_workers : {0, 1, 4}) {
    DataLoader loader(std::make_shared<NumberStream>(5),
                      {.batch_size = 2, .num_workers = num_workers});
    EXPECT_EQ(loader.size(), kUnknownSize);
    EXPECT_EQ(epoch_of(loader, 0), (Batches{{0, 1}, {2, 3}, {4}}));
    EXPECT_FALSE(loader.next());
    EXPECT_EQ(epoch_of(loader, 2), (Batches{{2000, 2001}, {2002, 2003}, {2004}}));
    EXPECT_EQ(epoch_of(loader, 0, 0, 2), (Batches{{0, 1}, {2, 3}}));
    EXPECT_EQ(epoch_of(loader, 0, 1, 1), (Batches{{2, 3}}));
    EXPECT_TRUE(epoch_of(loader, 0, 7).empty());
    loader.start(0);
    EXPECT_TRUE(loader.next());
    loader.stop();
    EXPECT_FALSE(loader.next());
  }
}

TEST(StreamSource, DropsALastBatchThatIsNotFull) {
  DataLoader loader(std::make_shared<NumberStream>(5), {.batch_size = 2, .drop_last = true});
  EXPECT_EQ(epoch_of(loader, 0), (Batches{{0, 1}, {2, 3}}));
  DataLoader none(std::make_shared<NumberStream>(1), {.batch_size = 2, .drop_last = true});
  EXPECT_TRUE(epoch_of(none, 0).empty());
  DataLoader empty(std::make_shared<NumberStream>(0), {});
  EXPECT_TRUE(epoch_of(empty, 0).empty());
}

TEST(StreamSource, ResumedAtAnyBatchContinues) {
  for (const int64_t num_workers : {0, 1}) {
    const DataLoaderOptions options = {.batch_size = 3, .num_workers = num_workers};
    DataLoader uninterrupted(std::make_shared<StatefulStream>(20), options);
    uninterrupted.start(1);
    for (int64_t done = 1; done <= 7; ++done) {
      ASSERT_TRUE(uninterrupted.next());
      const auto state = json::parse(uninterrupted.state_dict().dump());
      const auto stream = std::make_shared<StatefulStream>(20);
      DataLoader resumed(stream, options);
      resumed.load_state_dict(state);
      Batches expected = epoch_of(uninterrupted, 1, done);
      EXPECT_EQ(epoch_of(resumed, 1, done), expected) << done;
      EXPECT_EQ(stream->num_pulled, 20 - std::min<int64_t>(20, 3 * done));
      uninterrupted.start(1, done);
    }
  }
}

TEST(StreamSource, SkipsWhereTheStreamKeepsNoState) {
  DataLoader loader(std::make_shared<NumberStream>(5), {.batch_size = 2});
  loader.start(0);
  EXPECT_TRUE(loader.next());
  EXPECT_TRUE(loader.state_dict().is_null());
  loader.load_state_dict(loader.state_dict());
  EXPECT_EQ(epoch_of(loader, 0, 1), (Batches{{2, 3}, {4}}));
}

TEST(StreamSource, RefusesTheStateOfAnotherPosition) {
  DataLoader loader(std::make_shared<StatefulStream>(5), {.batch_size = 2});
  loader.load_state_dict({{"epoch", 0}, {"batch", 1}, {"dataset", 2}});
  EXPECT_EQ(thrown<CheckpointError>([&] { loader.start(0, 2); }),
            R"(DataLoader: the state of the stream is {"batch":1,"dataset":2,"epoch":0}, not that )"
            "of epoch 0 before batch 2.\n"
            "  The checkpoint is damaged or has the state of something else here.");
}

class Broken : public NumberStream {
 public:
  using NumberStream::NumberStream;
  std::optional<Batch> next() override {
    if (position_ == 3) {
      throw std::runtime_error("no sample 3");
    }
    return NumberStream::next();
  }
};

TEST(StreamSource, RethrowsAtTheBatchThatFailed) {
  for (const int64_t num_workers : {0, 1}) {
    DataLoader loader(std::make_shared<Broken>(9), {.batch_size = 2, .num_workers = num_workers});
    loader.start(0);
    EXPECT_EQ(values_of(*loader.next()), (std::vector<int64_t>{0, 1}));
    EXPECT_EQ(thrown<std::runtime_error>([&] { loader.next(); }), "no sample 3");
    EXPECT_FALSE(loader.next());
  }
}

TEST(StreamSource, RefusesWhatAStreamCannotDo) {
  EXPECT_EQ(
      thrown<ConfigError>([] { DataLoader(std::make_shared<NumberStream>(5), {.shuffle = true}); }),
      "DataLoader: shuffle is true, but an IterableDataset has an order of its own. Turn "
      "shuffle off, and shuffle within the data set.");
  const DataLoader loader(std::make_shared<NumberStream>(5), {});
  EXPECT_EQ(thrown<UsageError>([&] { (void)loader.dataset(); }),
            "DataLoader: dataset(), options() and num_samples() are those of a Dataset; this "
            "loader has a stream or a CombinedLoader. Ask shape().");
}

}  // namespace
}  // namespace trainer
