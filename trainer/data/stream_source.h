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
  void divide_batches(int64_t world_size, int64_t accumulate_grad_batches) override;

 private:
  bool restore(int64_t epoch, int64_t first_batch);
  Batch fetch();
  Batch pull();

  std::shared_ptr<IterableDataset> dataset_;
  DataLoaderOptions options_;
  int64_t epoch_ = 0;
  int64_t next_batch_ = 0;
  nlohmann::json state_ = nullptr;     // after the last batch that next() gave
  nlohmann::json restored_ = nullptr;  // for the next start()

  bool ended_ = false;                    // as are all below, of the fetching thread
  std::mutex mutex_;                      // for positions_
  std::deque<nlohmann::json> positions_;  // of the data set after each batch that is fetched
  Prefetcher prefetcher_;                 // last: its thread uses the rest
};

}  // namespace trainer
