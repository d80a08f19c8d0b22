#include <trainer/data/combined_loader.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/seed.h>

namespace trainer {
namespace {

const char* name_of(CombineMode mode) {
  switch (mode) {
    case CombineMode::kMinSize: return "min_size";
    case CombineMode::kMaxSize: return "max_size";
    case CombineMode::kMaxSizeCycle: return "max_size_cycle";
    case CombineMode::kSequential: return "sequential";
  }
  return "";
}

}  // namespace

CombinedLoader::CombinedLoader(std::vector<DataLoader> loaders, CombineMode mode)
    : loaders_(std::move(loaders)), mode_(mode) {
  if (loaders_.empty()) {
    throw UsageError("CombinedLoader: no loaders. Give at least one.");
  }
  for (size_t i = 0; i < loaders_.size(); ++i) {
    if (!loaders_[i]) {
      throw UsageError(fmt::format("CombinedLoader: loader {} has no data set.", i));
    }
  }
}

int64_t CombinedLoader::size() const {
  int64_t smallest = loaders_.front().size();
  int64_t largest = smallest;
  int64_t sum = 0;
  for (const auto& loader : loaders_) {
    if (loader.size() == kUnknownSize) {
      return kUnknownSize;
    }
    smallest = std::min(smallest, loader.size());
    largest = std::max(largest, loader.size());
    sum += loader.size();
  }
  return mode_ == CombineMode::kMinSize      ? smallest
         : mode_ == CombineMode::kSequential ? sum
                                             : largest;
}

void CombinedLoader::start(int64_t epoch, int64_t first_batch, int64_t num_batches) {
  const bool is_sized = size() != kUnknownSize;
  const int64_t start = is_sized ? first_batch : 0;
  epoch_ = epoch;
  left_ = num_batches;
  if (is_sized) {
    const int64_t all = size() - first_batch;
    left_ = num_batches < 0 ? all : std::min(num_batches, all);
  }
  cycles_.assign(loaders_.size(), 0);
  ended_.assign(loaders_.size(), false);
  current_ = 0;
  if (!is_sized && num_batches >= 0) {
    left_ = num_batches + first_batch;
  }
  if (mode_ == CombineMode::kSequential) {
    start_sequential(start);
  } else {
    start_parallel(start);
  }
  for (int64_t i = start; i < first_batch; ++i) {
    if (!next()) {
      break;
    }
  }
}

void CombinedLoader::start_parallel(int64_t first_batch) {
  for (size_t i = 0; i < loaders_.size(); ++i) {
    const int64_t num_batches = loaders_[i].size();
    if (mode_ == CombineMode::kMaxSizeCycle && num_batches > 0) {
      start_cycle(i, first_batch / num_batches, first_batch % num_batches);
    } else {
      const int64_t begin =
          num_batches == kUnknownSize ? first_batch : std::min(first_batch, num_batches);
      loaders_[i].start(epoch_, begin, left_);
    }
  }
}

/// Each cycle is another epoch to its loader, so that its order differs.
void CombinedLoader::start_cycle(size_t loader, int64_t cycle, int64_t first_batch) {
  const int64_t epoch =
      cycle == 0
          ? epoch_
          : static_cast<int64_t>(
                derive_seed(static_cast<uint64_t>(epoch_), static_cast<uint64_t>(cycle)) >> 1);
  cycles_[loader] = cycle;
  loaders_[loader].start(epoch, first_batch, left_);
}

void CombinedLoader::start_sequential(int64_t first_batch) {
  int64_t begin = first_batch;
  while (begin > 0 && current_ + 1 < loaders_.size() && begin >= loaders_[current_].size()) {
    begin -= loaders_[current_].size();
    ++current_;
  }
  loaders_[current_].start(epoch_, begin, left_);
}

std::optional<Batch> CombinedLoader::next() {
  auto batch = left_ == 0                          ? std::nullopt
               : mode_ == CombineMode::kSequential ? next_sequential()
                                                   : next_parallel();
  if (!batch) {
    left_ = 0;
    stop();
  } else if (left_ > 0) {
    --left_;
  }
  return batch;
}

std::optional<Batch> CombinedLoader::next_parallel() {
  std::vector<Batch> parts(loaders_.size());
  bool is_any = false;
  for (size_t i = 0; i < loaders_.size(); ++i) {
    auto part = loaders_[i].next();
    if (!part) {
      ended_[i] = true;
      const bool all_ended = std::find(ended_.begin(), ended_.end(), false) == ended_.end();
      if (mode_ == CombineMode::kMinSize || all_ended) {
        return std::nullopt;
      }
      if (mode_ == CombineMode::kMaxSize) {
        continue;
      }
      part = restarted(i);
    }
    is_any = true;
    parts[i] = std::move(*part);
  }
  return is_any ? std::optional(Batch::of_parts(std::move(parts))) : std::nullopt;
}

Batch CombinedLoader::restarted(size_t loader) {
  start_cycle(loader, cycles_[loader] + 1, 0);
  auto batch = loaders_[loader].next();
  if (!batch) {
    throw DataError(fmt::format(
        "CombinedLoader: loader {} has no batch, it cannot be repeated while others go on.\n"
        "  Give it data, or choose another mode than max_size_cycle.",
        loader));
  }
  return std::move(*batch);
}

std::optional<Batch> CombinedLoader::next_sequential() {
  auto batch = loaders_[current_].next();
  while (!batch && current_ + 1 < loaders_.size()) {
    ++current_;
    loaders_[current_].start(epoch_, 0, left_);
    batch = loaders_[current_].next();
  }
  return batch;
}

void CombinedLoader::stop() {
  for (auto& loader : loaders_) {
    loader.stop();
  }
}

nlohmann::json CombinedLoader::shape() const {
  auto shapes = nlohmann::json::array();
  for (const auto& loader : loaders_) {
    shapes.push_back(loader.shape());
  }
  return {{"mode", name_of(mode_)}, {"loaders", shapes}};
}

void CombinedLoader::divide_batches(const Division& division) {
  for (auto& loader : loaders_) {
    loader.divide_batches(division);
  }
}

/// Whether the loader has no part in the last batch.
bool CombinedLoader::is_left_out(size_t loader) const {
  return mode_ == CombineMode::kSequential ? loader != current_
                                           : mode_ == CombineMode::kMaxSize && ended_[loader];
}

std::optional<int64_t> CombinedLoader::global_samples() const {
  int64_t sum = 0;
  for (size_t i = 0; i < loaders_.size(); ++i) {
    if (is_left_out(i)) {
      continue;
    }
    const auto samples = loaders_[i].global_samples();
    if (!samples) {
      return std::nullopt;
    }
    sum += *samples;
  }
  return sum;
}

/// A batch of which some parts are repeated counts: it is the only one with the other parts.
bool CombinedLoader::is_repeated() const {
  for (size_t i = 0; i < loaders_.size(); ++i) {
    if (!is_left_out(i) && !loaders_[i].is_repeated()) {
      return false;
    }
  }
  return true;
}

void CombinedLoader::keep_order() {
  for (auto& loader : loaders_) {
    loader.keep_order();
  }
}

}  // namespace trainer
