#include <strategies/comm/buffer_pool.h>

#include <algorithm>
#include <utility>

namespace trainer {

torch::Tensor BufferPool::take(int64_t bytes) {
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const torch::Tensor& one) { return one.numel() >= bytes; });
  if (fits == free_.end()) {
    if (!free_.empty()) {
      free_.pop_back();  // in its place comes a larger one
    }
    return allocate_(bytes);
  }
  auto buffer = std::move(*fits);
  free_.erase(fits);
  return buffer;
}

void BufferPool::give_back(torch::Tensor buffer) {
  const auto larger = std::find_if(free_.begin(), free_.end(), [&](const torch::Tensor& one) {
    return one.numel() > buffer.numel();
  });
  free_.insert(larger, std::move(buffer));
}

}  // namespace trainer
