#pragma once
// The 1,797 handwritten digits of scikit-learn, 8x8 pixels each, split into training, validation
// and test samples.

#include <trainer/api.h>

/// Batches are (image [batch, 1, 8, 8] float32 in 0 to 1, label [batch] int64).
class DigitsData : public trainer::DataModule {
 public:
  static constexpr const char* kDoc = "1,797 handwritten digits, 8x8 pixels.";

  struct Init {
    std::string path = "data/digits.csv.gz";
    int64_t batch_size = 32;
    std::optional<int64_t> global_batch_size = std::nullopt;
    int64_t num_workers = 1;
    double val_fraction = 0.15;
    double test_fraction = 0.15;
    int64_t split_seed = 0;

    static constexpr auto fields() {
      using trainer::config::field, trainer::config::at_least, trainer::config::in_range;
      return std::tuple{
          field<&Init::path>(
              "CSV file: 64 pixels of 0 to 16 and the label in each row; tools/setup.sh makes it."),
          field<&Init::batch_size>("Samples in a batch.", at_least(1)),
          field<&Init::global_batch_size>(
              "Training samples in an optimizer step of all processes together, in place of "
              "batch_size.",
              at_least(1)),
          field<&Init::num_workers>("Threads that fetch batches ahead.", at_least(0)),
          field<&Init::val_fraction>("Part of the samples kept for validation.",
                                     in_range(0.0, 1.0)),
          field<&Init::test_fraction>("Part of the samples kept for the test.", in_range(0.0, 1.0)),
          field<&Init::split_seed>("Seed of the split.", at_least(0))};
    }
    void validate() const {
      if (val_fraction <= 0 || test_fraction <= 0 || val_fraction + test_fraction > 1 - 1e-6) {
        const auto text = [](double value) { return trainer::config::write(value).describe(); };
        throw trainer::ConfigError(
            "val_fraction is " + text(val_fraction) + " and test_fraction " + text(test_fraction) +
            ". Each has to be above 0 and their sum below 1: the rest is for training.");
      }
    }
  };

  explicit DigitsData(Init init) : init_(std::move(init)) {}

  void setup(trainer::Stage) override;
  trainer::DataLoader train_dataloader() override;
  trainer::DataLoader val_dataloader() override;
  trainer::DataLoader test_dataloader() override;
  trainer::DataLoader predict_dataloader() override;
  nlohmann::json checksums() const override;

 private:
  trainer::DataLoader loader(size_t part, bool shuffle) const;

  Init init_;
  std::vector<std::shared_ptr<trainer::Subset>> parts_;  // training, validation, test
};
