#pragma once
// The batches of an IterableDataset: DataLoader's other half, internal.

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include <nlohmann/json.hpp>

#include <trainer/data/batch_source.h>
#include <trainer/data/data_loader.h>
#include <trainer/data/iterable_dataset.h>
#include <trainer/data/prefetcher.h>

namespace trainer {

/// One thread, at most, pulls samples ahead.
class StreamSource : public BatchSource {
 public:
  StreamSource(std::shared_ptr<IterableDataset> dataset, DataLoaderOptions options);

  int64_t size() const override { return kUnknownSize; }
  void start(int64_t epoch, int64_t first_batch, int64_t num_batches) override;
  std::optional<Batch> next() override;
  void stop() override { prefetcher_.stop(); }
  nlohmann::json shape() const override;
  nlohmann::json state_dict() const override { return state_; }
  void load_state_dict(const nlohmann::json& state) override { restored_ = state; }
  void divide_batches(const Division& division) override;
  std::optional<int64_t> global_samples() const override;
  bool is_repeated() const override { return last_.is_repeated; }

 private:
  /// What is to be known of a batch beside its samples.
  struct Fetched {
    nlohmann::json position = nullptr;  // of the data set after it
    int64_t global_samples = 0;
    bool is_repeated = false;
  };

  bool restore(int64_t epoch, int64_t first_batch);
  Batch fetch();
  Batch pull(Fetched& fetched);
  int num_sharing() const { return is_whole_ ? division_.world_size : 1; }

  std::shared_ptr<IterableDataset> dataset_;
  DataLoaderOptions options_;
  int64_t epoch_ = 0;
  int64_t next_batch_ = 0;
  Division division_;
  bool is_whole_ = true;               // the data set gives every process all samples
  Fetched last_;                       // of the last batch that next() gave
  nlohmann::json state_ = nullptr;     // after it
  nlohmann::json restored_ = nullptr;  // for the next start()

  bool ended_ = false;           // as are all below, of the fetching thread
  std::mutex mutex_;             // for fetched_
  std::deque<Fetched> fetched_;  // batches that next() did not give yet
  Prefetcher prefetcher_;        // last: its thread uses the rest
};

}  // namespace trainer
