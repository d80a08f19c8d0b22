#include <strategies/fsdp/operator_log.h>

#include <unordered_set>
#include <utility>

#include <ATen/ops/empty.h>
#include <c10/core/TensorImpl.h>
#include <torch/utils.h>

#include <strategies/fsdp/guarded_storage.h>
#include <trainer/core/error.h>
#include <trainer/core/heap.h>

namespace trainer {
namespace {

constexpr const char* kWhatToDo =
    "A tensor that configure_model() makes has values when the module is sharded, before "
    "configure_optimizers(). Do this later, make the tensor in the constructor of the module, or "
    "set deferred_construction of FSDP to false.";

c10::DispatchKeySet keys_of(c10::DispatchKey backend, c10::BackendComponent component) {
  return c10::DispatchKeySet(backend) | c10::getAutogradRelatedKeySetFromBackend(component);
}

}  // namespace

c10::DispatchKeySet cpu_keys() {
  return keys_of(c10::DispatchKey::CPU, c10::BackendComponent::CPUBit);
}
c10::DispatchKeySet meta_keys() {
  return keys_of(c10::DispatchKey::Meta, c10::BackendComponent::MetaBit);
}

torch::Tensor tensor_over(c10::Storage storage, c10::DispatchKeySet keys,
                          const torch::Tensor& form) {
  auto impl = c10::make_intrusive<c10::TensorImpl>(c10::TensorImpl::VIEW, std::move(storage), keys,
                                                   form.dtype());
  impl->set_storage_offset(form.storage_offset());
  impl->set_sizes_and_strides(form.sizes(), form.strides());
  return torch::Tensor(std::move(impl));
}

c10::StorageImpl* storage_of(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->has_storage()
             ? tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()
             : nullptr;
}

bool is_written(const c10::OperatorHandle& op, size_t argument) {
  const auto* const alias = op.schema().arguments()[argument].alias_info();
  return alias != nullptr && alias->isWrite();
}

uint32_t version_of(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.unsafeGetTensorImpl()->version_counter().current_version() : 0;
}

void trim_heap_after(size_t freed) {
  constexpr size_t kOften = 16 << 20;
  static thread_local size_t since_last = 0;
  since_last += freed;
  if (since_last >= kOften) {
    since_last = 0;
    trim_heap();
  }
}

void refuse_deferred(const c10::OperatorHandle& op, const std::string& what) {
  throw UsageError("FSDP, deferred construction: " + c10::toString(op.operator_name()) + " " +
                   what + " " + kWhatToDo);
}

std::string read_too_early() {
  return std::string(
             "FSDP, deferred construction: the memory of a tensor was asked for before it "
             "had values. ") +
         kWhatToDo;
}

OperatorLog::Memory OperatorLog::add(const torch::Tensor& form) {
  const Memory memory = storage_of(form);
  memories_[memory] = {form.storage(), form.storage().nbytes(), {}, false};
  return memory;
}

void OperatorLog::drop(Memory memory) {
  if (!memories_.at(memory).is_read) {
    memories_.erase(memory);
  }
}

void OperatorLog::keep(const std::shared_ptr<const Record>& record) {
  std::unordered_set<Memory> used, changed;
  for (size_t i = 0; i < record->arguments.size(); ++i) {
    for_each_tensor(record->arguments[i], [&](const torch::Tensor& tensor) {
      if (memories_.contains(storage_of(tensor))) {
        used.insert(storage_of(tensor));
        if (is_written(record->op, i)) {
          changed.insert(storage_of(tensor));
        }
      }
    });
  }
  for (const auto& made : record->made) {
    if (made.defined()) {
      changed.insert(storage_of(made));
    }
  }
  for (const Memory one : changed) {
    auto& entry = memories_.at(one);
    if (!entry.is_read && replaces_all(*record, one)) {
      entry.writers.clear();
    }
    entry.writers.push_back(record);
  }
  for (const Memory one : used) {
    memories_.at(one).is_read |= changed.size() > (changed.contains(one) ? 1 : 0);
  }
}

/// Whether nothing of what the memory held before counts after this record.
bool OperatorLog::replaces_all(const Record& record, Memory memory) const {
  static const std::unordered_set<std::string> kReplacing = {
      "aten::zero_",    "aten::fill_",   "aten::copy_",        "aten::normal_",
      "aten::uniform_", "aten::random_", "aten::exponential_", "aten::log_normal_"};
  if (!kReplacing.contains(record.op.operator_name().name)) {
    return false;
  }
  size_t uses = 0;
  for_each_tensor(record.arguments, [&](const torch::Tensor& tensor) {
    uses += storage_of(tensor) == memory ? 1 : 0;
  });
  const auto target = record.arguments[0].toTensor();
  return uses == 1 && storage_of(target) == memory && target.is_non_overlapping_and_dense() &&
         target.nbytes() == memories_.at(memory).nbytes;
}

/// Runs the operator. `values` has what is known by now, and gets the rest, as it was before the
/// record; without `keeps_written`, of what is written to anything.
torch::jit::Stack OperatorLog::execute(const Record& record, Values& values, bool keeps_written) {
  const GuardedStorage::Unguarded unrecorded;
  const torch::NoGradGuard no_grad;
  torch::jit::Stack stack;
  auto version = record.versions.begin();
  for (size_t i = 0; i < record.arguments.size(); ++i) {
    const bool is_scratch = !keeps_written && is_written(record.op, i);
    stack.push_back(map_tensors(record.arguments[i], [&](const torch::Tensor& tensor) {
      const auto found = memories_.find(storage_of(tensor));
      if (found == memories_.end()) {
        if (version_of(tensor) != *version++) {
          refuse_deferred(record.op, "took a tensor that was written to later.");
        }
        return tensor;
      }
      auto& value = values[found->first];
      if (!value && !is_scratch) {
        value = contents(found->first, record.number);
      }
      if (!value) {
        value = at::empty({static_cast<int64_t>(found->second.nbytes)}, torch::kUInt8).storage();
      }
      return tensor_over(value, cpu_keys(), tensor);
    }));
  }
  record.op.callBoxed(stack);
  return stack;
}

torch::jit::Stack OperatorLog::run(const Record& record) {
  Values values;
  return execute(record, values, /*keeps_written=*/true);
}

void OperatorLog::draw(const Record& record) {
  size_t nbytes = 0;
  {
    Values values;
    for_each_tensor(execute(record, values, /*keeps_written=*/false),
                    [&](const torch::Tensor& tensor) { nbytes += tensor.nbytes(); });
  }
  trim_heap_after(nbytes);
}

/// What those before `end` make of it; null for none.
c10::Storage OperatorLog::contents(Memory memory, size_t end) {
  c10::Storage value;
  const auto writers = memories_.at(memory).writers;
  for (const auto& record : writers) {
    if (record->number >= end) {
      break;
    }
    Values values;
    if (value) {
      values[memory] = std::move(value);
    }
    const DrawsAgain draws_again(record->random);
    const auto results = execute(*record, values, /*keeps_written=*/true);
    value = values[memory];
    size_t next = 0;
    for_each_tensor(results, [&](const torch::Tensor& tensor) {
      const auto& made = record->made[next++];
      if (made.defined() && storage_of(made) == memory) {
        TRAINER_CHECK(tensor.strides() == made.strides(), "values lie as the meta tensor said");
        value = tensor.storage();
      }
    });
  }
  return value;
}

}  // namespace trainer
