#pragma once
// A batch: what a data set yields and a module's steps receive, an ordered list of tensors that may
// have names.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <torch/types.h>

namespace trainer {

/// Tensors that belong together; the first dimension of each is the sample: [batch, ...].
///
///   auto [x, y] = batch.unpack<2>();      // by position
///   auto ids = batch["input_ids"];        // by name, where the data set gives names
class Batch {
 public:
  Batch() = default;
  Batch(std::initializer_list<torch::Tensor> tensors) : tensors_(tensors) {}
  explicit Batch(std::vector<torch::Tensor> tensors, std::vector<std::string> names = {});
  /// The batches of several loaders as one, which has no tensors of its own: what a CombinedLoader
  /// yields. A part may be empty.
  static Batch of_parts(std::vector<Batch> parts);

  /// The first N tensors by position. Throws UsageError when the batch does not hold exactly N.
  template <size_t N>
  std::array<torch::Tensor, N> unpack() const {
    if (tensors_.size() != N) {
      throw_wrong_count(N);
    }
    std::array<torch::Tensor, N> result;
    for (size_t i = 0; i < N; ++i) {
      result[i] = tensors_[i];
    }
    return result;
  }

  /// Throws UsageError for an index or a name that is not there, and lists those that are.
  const torch::Tensor& operator[](size_t index) const;
  const torch::Tensor& operator[](std::string_view name) const;

  /// The batch of loader `index`. Throws UsageError for one that is not there.
  const Batch& part(size_t index) const;
  /// 0 for a batch of one loader.
  size_t num_parts() const { return parts_.size(); }

  /// Number of samples: the first dimension of the first tensor; 0 for an empty batch, 1 for a
  /// scalar, the sum over the parts where there are any.
  int64_t size() const;
  size_t num_tensors() const { return tensors_.size(); }
  bool empty() const { return tensors_.empty() && parts_.empty(); }
  const std::vector<torch::Tensor>& tensors() const { return tensors_; }
  /// Empty when the batch has no names.
  const std::vector<std::string>& names() const;

  /// The same batch with every tensor on `device`; tensors already there are shared, not copied.
  Batch to(torch::Device device) const& { return Batch(*this).to(device); }
  Batch to(torch::Device device) &&;
  /// The same batch with every floating-point tensor in `dtype`, and integers as they are.
  Batch to(torch::ScalarType dtype) const& { return Batch(*this).to(dtype); }
  Batch to(torch::ScalarType dtype) &&;

 private:
  [[noreturn]] void throw_wrong_count(size_t expected) const;

  std::vector<torch::Tensor> tensors_;
  std::shared_ptr<const std::vector<std::string>>
      names_;  // shared: equal for every batch of a loader
  std::vector<Batch> parts_;
};

}  // namespace trainer
