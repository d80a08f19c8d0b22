#include <trainer/data/stack.h>

#include <utility>

#include <ATen/Functions.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trainer {

std::string form(const Batch& sample) {
  std::string text;
  for (size_t i = 0; i < sample.num_tensors(); ++i) {
    text += fmt::format("{}{}{}{} [{}]", i == 0 ? "" : ", ",
                        sample.names().empty() ? "" : sample.names()[i],
                        sample.names().empty() ? "" : ": ", c10::toString(sample[i].scalar_type()),
                        fmt::join(sample[i].sizes(), ", "));
  }
  return text.empty() ? "no tensors" : text;
}

bool same_form(const Batch& a, const Batch& b) {
  if (a.num_tensors() != b.num_tensors() || a.names() != b.names()) {
    return false;
  }
  for (size_t i = 0; i < a.num_tensors(); ++i) {
    if (a[i].scalar_type() != b[i].scalar_type() || a[i].sizes() != b[i].sizes()) {
      return false;
    }
  }
  return true;
}

Batch stack_samples(const std::vector<Batch>& samples) {
  std::vector<torch::Tensor> stacked;
  std::vector<torch::Tensor> column(samples.size());
  for (size_t i = 0; i < samples.front().num_tensors(); ++i) {
    for (size_t j = 0; j < samples.size(); ++j) {
      column[j] = samples[j][i];
    }
    stacked.push_back(at::stack(column));
  }
  return Batch(std::move(stacked), samples.front().names());
}

}  // namespace trainer
