#pragma once
// All data of a run in one place: how it is prepared, split and batched. Derive from DataModule, or
// hand loaders to the Trainer directly.

#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/data/data_loader.h>
#include <trainer/progress.h>

namespace trainer {

class DataModule {
 public:
  using Base = DataModule;
  static constexpr const char* kKind = "data module";

  virtual ~DataModule() = default;

  /// Downloads or unpacks; runs once on each node before setup().
  virtual void prepare_data() {}
  /// Opens and splits; runs in every process.
  virtual void setup(Stage) {}
  virtual void teardown(Stage) {}

  virtual DataLoader train_dataloader() { return {}; }
  virtual DataLoader val_dataloader() { return {}; }
  virtual DataLoader test_dataloader() { return {}; }
  virtual DataLoader predict_dataloader() { return {}; }

  /// Several sets to evaluate on, one after the other: override the plural form instead. The step
  /// finds which one it is given in progress().dataloader_idx, and what it logs is called
  /// "name/dataloader_idx_1".
  virtual std::vector<DataLoader> val_dataloaders() { return only(val_dataloader()); }
  virtual std::vector<DataLoader> test_dataloaders() { return only(test_dataloader()); }
  virtual std::vector<DataLoader> predict_dataloaders() { return only(predict_dataloader()); }

  virtual Batch on_before_batch_transfer(Batch batch) { return batch; }
  virtual Batch transfer_batch_to_device(Batch batch, torch::Device device) {
    return std::move(batch).to(device);
  }
  virtual Batch on_after_batch_transfer(Batch batch) { return batch; }

  /// Checksums of the files behind this data, for provenance.json: {"data/digits.csv.gz":
  /// "xxh3_128:..."}.
  virtual nlohmann::json checksums() const { return nlohmann::json::object(); }

  /// Kept in checkpoints; null means nothing to keep.
  virtual nlohmann::json state_dict() const { return nullptr; }
  virtual void load_state_dict(const nlohmann::json&) {}

  virtual void on_exception(const std::exception&) {}

 private:
  static std::vector<DataLoader> only(DataLoader loader) {
    std::vector<DataLoader> loaders;
    if (loader) {
      loaders.push_back(std::move(loader));
    }
    return loaders;
  }
};

}  // namespace trainer
