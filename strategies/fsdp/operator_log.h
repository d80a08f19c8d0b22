#pragma once
// What operators did to tensors that have no memory yet, and their values when these are wanted.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/types.h>

#include <trainer/core/generator_state.h>

namespace trainer {

/// `value` with each tensor in it replaced.
template <class Change>
c10::IValue map_tensors(const c10::IValue& value, const Change& change) {
  if (value.isTensor()) {
    return change(value.toTensor());
  }
  if (!value.isList()) {
    return value;
  }
  auto list = value.toList().copy();
  for (size_t i = 0; i < list.size(); ++i) {
    if (const c10::IValue element = list.get(i); element.isTensor()) {
      list.set(i, change(element.toTensor()));
    }
  }
  return list;
}

template <class Action>
void for_each_tensor(c10::ArrayRef<c10::IValue> values, const Action& action) {
  for (const auto& value : values) {
    (void)map_tensors(value, [&](const torch::Tensor& tensor) {
      action(tensor);
      return tensor;
    });
  }
}

/// A tensor on the processor, or a meta tensor, over `storage`, with the geometry of `form`.
torch::Tensor tensor_over(c10::Storage storage, c10::DispatchKeySet keys,
                          const torch::Tensor& form);
c10::DispatchKeySet cpu_keys();
c10::DispatchKeySet meta_keys();
/// Null for a tensor without one.
c10::StorageImpl* storage_of(const torch::Tensor& tensor);

bool is_written(const c10::OperatorHandle& op, size_t argument);
/// Of an undefined tensor 0.
uint32_t version_of(const torch::Tensor& tensor);

/// Throws UsageError that begins with the operator and ends with what to do.
[[noreturn]] void refuse_deferred(const c10::OperatorHandle& op, const std::string& what);
std::string read_too_early();

/// After `freed` bytes were freed. Small tensors come to lie in what large ones leave, and then the
/// next large one does not fit there: so what is free goes back to the system every so often.
void trim_heap_after(size_t freed);

/// A memory is known by a storage of meta tensors, which stand for it in records.
class OperatorLog {
 public:
  using Memory = const c10::StorageImpl*;
  using Values = std::unordered_map<Memory, c10::Storage>;

  struct Record {
    size_t number;
    c10::OperatorHandle op;
    torch::jit::Stack arguments;         // with meta tensors for those without memory
    std::vector<uint32_t> versions;      // of the others
    std::vector<torch::Tensor> made;     // of each tensor that it returns: where it is new
    std::vector<GeneratorState> random;  // of its generator, before an operator that draws
  };

  std::shared_ptr<Record> new_record(const c10::OperatorHandle& op) {
    return std::make_shared<Record>(Record{next_number_++, op, {}, {}, {}, {}});
  }
  /// The memory of a meta tensor that an operator has made.
  Memory add(const torch::Tensor& form);
  const c10::Storage& form_of(Memory memory) const { return memories_.at(memory).form; }
  /// No tensor has it any more.
  void drop(Memory memory);
  /// Adds a record to the memories that it changes.
  void keep(const std::shared_ptr<const Record>& record);

  /// Runs the operator on values.
  torch::jit::Stack run(const Record& record);
  /// Runs it for its random numbers alone.
  void draw(const Record& record);
  /// What the records of a memory make of it.
  c10::Storage contents(Memory memory) { return contents(memory, SIZE_MAX); }

 private:
  struct Entry {
    c10::Storage form;
    size_t nbytes = 0;
    std::vector<std::shared_ptr<const Record>> writers;
    bool is_read = false;  // by records of others
  };

  bool replaces_all(const Record& record, Memory memory) const;
  torch::jit::Stack execute(const Record& record, Values& values, bool keeps_written);
  c10::Storage contents(Memory memory, size_t end);

  size_t next_number_ = 0;
  std::unordered_map<Memory, Entry> memories_;
};

}  // namespace trainer
