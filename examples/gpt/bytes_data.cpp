#include "bytes_data.h"

namespace L = trainer;

TRAINER_REGISTER_DATA_MODULE(BytesData);

TokenWindows::TokenWindows(const std::string& path, int64_t block_size, int64_t stride)
    : file_(path, torch::kUInt8), block_size_(block_size), stride_(stride) {
  const int64_t last_start = file_.size() - block_size_ - 1;  // the target needs one token more
  if (last_start < 0) {
    throw L::DataError(path + ": has " + std::to_string(file_.size()) +
                       " tokens, too few for one sample of " + std::to_string(block_size_) +
                       " and the token after it.\n  Give a longer file, or lower "
                       "data.init_args.block_size.");
  }
  size_ = last_start / stride_ + 1;
}

L::Batch TokenWindows::get_batch(std::span<const int64_t> indices) const {
  const auto count = static_cast<int64_t>(indices.size());
  auto tokens = torch::empty({count, block_size_ + 1}, torch::kInt64);
  auto* row = tokens.mutable_data_ptr<int64_t>();
  for (const int64_t index : indices) {
    file_.copy(index * stride_, block_size_ + 1, row);
    row += block_size_ + 1;
  }
  return {tokens.narrow(1, 0, block_size_), tokens.narrow(1, 1, block_size_)};
}

void BytesData::setup(L::Stage) {
  auto open = [&](const std::string& path) {
    return std::make_shared<TokenWindows>(path, init_.block_size, init_.block_size);
  };
  train_ = open(init_.train_path);
  val_ = open(init_.val_path);
}

L::DataLoader BytesData::loader(const std::shared_ptr<const L::Dataset>& data, bool shuffle) const {
  L::DataLoaderOptions options{
      .batch_size = init_.batch_size, .shuffle = shuffle, .num_workers = init_.num_workers};
  if (data == train_ && init_.global_batch_size) {
    options.batch_size = 1;  // the other one stands for it
    options.global_batch_size = init_.global_batch_size;
  }
  return {data, options};
}

nlohmann::json BytesData::checksums() const {
  auto sums = nlohmann::json::object();
  for (const auto& path : {init_.train_path, init_.val_path}) {
    sums[path] = "xxh3_128:" + L::hash::xxh3_128_of_file(path);
  }
  return sums;
}
