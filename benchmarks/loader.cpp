// Shuffled batches of 32 from the digits, 1,797 x 64 floats and a label each, as in loader.py.
//
//   loader [EPOCHS]      prints us_per_sample

#include "mlp.h"

int main(int argc, char** argv) {
  const int64_t num_epochs = argc > 1 ? std::atoll(argv[1]) : 500;
  torch::set_num_threads(1);
  const auto table = trainer::data::read_csv("data/digits.csv.gz");
  const std::vector<torch::Tensor> tensors = {table.narrow(1, 0, 64).contiguous(),
                                              table.select(1, 64).to(torch::kInt64)};
  trainer::DataLoader loader(std::make_shared<trainer::TensorDataset>(tensors),
                             {.batch_size = 32, .shuffle = true});
  const auto count_samples = [&](int64_t first_epoch, int64_t end_epoch) {
    int64_t samples = 0;
    for (int64_t epoch = first_epoch; epoch < end_epoch; ++epoch) {
      loader.start(epoch);
      while (const auto batch = loader.next()) {
        samples += batch->size();
      }
    }
    return samples;
  };
  constexpr int64_t kWarmupEpochs = 3;
  count_samples(0, kWarmupEpochs);
  const double begin = benchmark::seconds(CLOCK_MONOTONIC);
  const int64_t samples = count_samples(kWarmupEpochs, kWarmupEpochs + num_epochs);
  const double elapsed = benchmark::seconds(CLOCK_MONOTONIC) - begin;
  benchmark::print("us_per_sample", 1e6 * elapsed / static_cast<double>(samples));
}
