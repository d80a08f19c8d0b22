#pragma once
// Byte-level text for a language model: windows of a token file, each paired with itself shifted by
// one.

#include <trainer/api.h>

/// Samples are (input, target), int64 [block_size] each; batches [batch, block_size].
class TokenWindows : public trainer::Dataset {
 public:
  /// Windows of a file of bytes lie next to each other, `stride` tokens apart. Throws DataError
  /// when the file is too short for one.
  TokenWindows(const std::string& path, int64_t block_size, int64_t stride);

  int64_t size() const override { return size_; }
  trainer::Batch get_batch(std::span<const int64_t> indices) const override;

 private:
  trainer::data::TokenFile file_;
  int64_t block_size_, stride_, size_;
};

class BytesData : public trainer::DataModule {
 public:
  static constexpr const char* kDoc = "Windows of byte-level text files.";

  struct Init {
    std::string train_path = "data/bytes_train.bin";
    std::string val_path = "data/bytes_val.bin";
    int64_t block_size = 64;
    int64_t batch_size = 16;
    std::optional<int64_t> global_batch_size = std::nullopt;
    int64_t num_workers = 1;

    static constexpr auto fields() {
      using trainer::config::field, trainer::config::at_least;
      return std::tuple{
          field<&Init::train_path>("Training tokens, one byte each; tools/setup.sh makes them."),
          field<&Init::val_path>("Validation tokens."),
          field<&Init::block_size>("Tokens in a sample.", at_least(1)),
          field<&Init::batch_size>("Samples in a batch.", at_least(1)),
          field<&Init::global_batch_size>(
              "Training samples in an optimizer step of all processes together, in place of "
              "batch_size.",
              at_least(1)),
          field<&Init::num_workers>("Threads that fetch batches ahead.", at_least(0))};
    }
  };

  explicit BytesData(Init init) : init_(std::move(init)) {}

  void setup(trainer::Stage) override;
  trainer::DataLoader train_dataloader() override { return loader(train_, true); }
  trainer::DataLoader val_dataloader() override { return loader(val_, false); }
  trainer::DataLoader test_dataloader() override { return loader(val_, false); }
  nlohmann::json checksums() const override;

 private:
  trainer::DataLoader loader(const std::shared_ptr<const trainer::Dataset>& data,
                             bool shuffle) const;

  Init init_;
  std::shared_ptr<const trainer::Dataset> train_, val_;
};
