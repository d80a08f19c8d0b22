#include "digits_data.h"

TRAINER_REGISTER_DATA_MODULE(DigitsData);

void DigitsData::setup(trainer::Stage) {
  const auto table = trainer::data::read_csv(init_.path);  // [1797, 65]
  if (table.size(1) != 65) {
    throw trainer::DataError(init_.path + ": has " + std::to_string(table.size(1)) +
                             " columns, not 64 pixels and a label. tools/setup.sh makes the file.");
  }
  const auto images = table.narrow(1, 0, 64).div(16).reshape({-1, 1, 8, 8});
  const auto labels = table.select(1, 64).to(torch::kInt64);
  if (labels.lt(0).logical_or(labels.gt(9)).any().item<bool>()) {
    throw trainer::DataError(init_.path + ": has a label that is no digit (column 65, 0 to 9).");
  }
  try {
    parts_ = trainer::random_split(
        std::make_shared<trainer::TensorDataset>(std::vector<torch::Tensor>{images, labels}),
        {1 - init_.val_fraction - init_.test_fraction, init_.val_fraction, init_.test_fraction},
        static_cast<uint64_t>(init_.split_seed));
  } catch (const trainer::DataError& error) {
    throw trainer::DataError(init_.path + ": " + error.what());
  }
}

trainer::DataLoader DigitsData::loader(size_t part, bool shuffle) const {
  trainer::DataLoaderOptions options{
      .batch_size = init_.batch_size, .shuffle = shuffle, .num_workers = init_.num_workers};
  if (part == 0 && init_.global_batch_size) {
    options.batch_size = 1;  // the other one stands for it
    options.global_batch_size = init_.global_batch_size;
  }
  return {parts_.at(part), options};
}

trainer::DataLoader DigitsData::train_dataloader() { return loader(0, true); }
trainer::DataLoader DigitsData::val_dataloader() { return loader(1, false); }
trainer::DataLoader DigitsData::test_dataloader() { return loader(2, false); }
trainer::DataLoader DigitsData::predict_dataloader() { return loader(2, false); }

nlohmann::json DigitsData::checksums() const {
  return {{init_.path, "xxh3_128:" + trainer::hash::xxh3_128_of_file(init_.path)}};
}
