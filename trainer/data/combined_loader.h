#pragma once
// Several loaders as one.
//
//   std::vector<DataLoader> loaders;
//   loaders.emplace_back(labelled, DataLoaderOptions{.batch_size = 8, .shuffle = true});
//   loaders.emplace_back(unlabelled, DataLoaderOptions{.batch_size = 32, .shuffle = true});
//   DataLoader both(std::make_unique<CombinedLoader>(std::move(loaders)));
//
// and in a step: `auto [x, y] = batch.part(0).unpack<2>();`

#include <cstdint>
#include <optional>
#include <vector>

#include <trainer/data/batch_source.h>
#include <trainer/data/data_loader.h>

namespace trainer {

/// Lightning's modes.
enum class CombineMode {
  kMinSize,       ///< A batch of each, until the first loader ends.
  kMaxSize,       ///< Until the last one ends; an ended loader's part is an empty batch.
  kMaxSizeCycle,  ///< Until the last one ends; an ended loader starts anew, in another order.
  kSequential,    ///< One loader after the other, batches as they are; see dataloader_idx().
};

/// Except for kSequential a batch is a Batch of parts, one for each loader. When all sizes are
/// known start() is O(1) wherever it begins; with a stream among the loaders it fetches, and drops,
/// the batches before.
class CombinedLoader : public BatchSource {
 public:
  /// kMaxSizeCycle is meant for training, kSequential for evaluation. Throws UsageError for no
  /// loader, or one without data.
  explicit CombinedLoader(std::vector<DataLoader> loaders,
                          CombineMode mode = CombineMode::kMaxSizeCycle);

  int64_t size() const override;
  void start(int64_t epoch, int64_t first_batch, int64_t num_batches) override;
  /// Throws DataError where a loader that has to start anew has no batch at all.
  std::optional<Batch> next() override;
  void stop() override;
  int64_t dataloader_idx() const override { return static_cast<int64_t>(current_); }
  nlohmann::json shape() const override;
  void divide_batches(const Division& division) override;
  std::optional<int64_t> global_samples() const override;
  bool is_repeated() const override;
  void keep_order() override;

 private:
  void start_parallel(int64_t first_batch);
  void start_sequential(int64_t first_batch);
  void start_cycle(size_t loader, int64_t cycle, int64_t first_batch);
  std::optional<Batch> next_parallel();
  std::optional<Batch> next_sequential();
  Batch restarted(size_t loader);
  bool is_left_out(size_t loader) const;

  std::vector<DataLoader> loaders_;
  CombineMode mode_;
  int64_t epoch_ = 0;
  int64_t left_ = 0;             // batches until the end that start() was given, -1 for no such end
  std::vector<int64_t> cycles_;  // how often each loader was started anew
  std::vector<bool> ended_;      // whether each loader was at its end once
  size_t current_ = 0;           // the loader of the last batch, in kSequential
};

}  // namespace trainer
