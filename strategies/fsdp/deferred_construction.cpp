#include <strategies/fsdp/deferred_construction.h>

#include <malloc.h>

#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/TensorImpl.h>
#include <torch/library.h>
#include <torch/utils.h>

#include <strategies/fsdp/guarded_storage.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

using Stack = torch::jit::Stack;

constexpr const char* kWhatToDo =
    "A tensor that configure_model() makes has values when the module is sharded, before "
    "configure_optimizers(). Do this later, make the tensor in the constructor of the module, or "
    "set deferred_construction of FSDP to false.";

c10::DispatchKey deferred_key = c10::DispatchKey::Undefined;

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

c10::DispatchKeySet keys_of(c10::DispatchKey backend, c10::BackendComponent component) {
  return c10::DispatchKeySet(backend) | c10::getAutogradRelatedKeySetFromBackend(component);
}
c10::DispatchKeySet cpu_keys() {
  return keys_of(c10::DispatchKey::CPU, c10::BackendComponent::CPUBit);
}
c10::DispatchKeySet meta_keys() {
  return keys_of(c10::DispatchKey::Meta, c10::BackendComponent::MetaBit);
}

/// With the geometry of `form`.
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

/// A generator and its state at some time.
class RandomState {
 public:
  explicit RandomState(const at::Generator& generator) : generator_(generator) {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    state_ = generator_.get_state();
  }
  RandomState now() const { return RandomState(generator_); }
  void restore() const {
    at::Generator generator = generator_;
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state_);
  }

 private:
  at::Generator generator_;
  torch::Tensor state_;
};

/// Has an operator draw the numbers of an earlier time.
class AsDrawn {
 public:
  explicit AsDrawn(const RandomState& then) : now_(then.now()) { then.restore(); }
  AsDrawn(const AsDrawn&) = delete;
  AsDrawn& operator=(const AsDrawn&) = delete;
  ~AsDrawn() { now_.restore(); }

 private:
  const RandomState now_;
};

/// An operator that ran while tensors had no values.
struct Record {
  size_t number;
  c10::OperatorHandle op;
  Stack arguments;                    // deferred tensors stand there as meta tensors
  std::vector<uint32_t> versions;     // of the others
  std::vector<torch::Tensor> made;    // of each tensor that it returns: in form, where it is new
  std::optional<RandomState> random;  // before an operator that draws
};

/// What is known of memory that is not there. A meta storage stands for it in records.
struct Memory {
  c10::Storage form;
  size_t nbytes = 0;
  std::vector<std::shared_ptr<const Record>> writers;
  bool is_read = false;  // by records of others
};

/// A tensor that an operator takes, and the meta tensor that stands for it where it is deferred.
struct Argument {
  torch::Tensor tensor, twin;
};

uint32_t version_of(const torch::Tensor& tensor) {
  return tensor.defined() ? tensor.unsafeGetTensorImpl()->version_counter().current_version() : 0;
}

at::Generator generator_among(const Stack& arguments) {
  for (const auto& argument : arguments) {
    if (argument.isGenerator()) {
      return argument.toGenerator();
    }
  }
  return at::globalContext().defaultGenerator(torch::kCPU);
}

bool is_written(const c10::OperatorHandle& op, size_t argument) {
  const auto* const alias = op.schema().arguments()[argument].alias_info();
  return alias != nullptr && alias->isWrite();
}

[[noreturn]] void refuse(const c10::OperatorHandle& op, const std::string& what) {
  throw UsageError("FSDP, deferred construction: " + c10::toString(op.operator_name()) + " " +
                   what + " " + kWhatToDo);
}

/// Small tensors come to lie in what large ones leave, and then the next large one does not fit
/// there. So what is free goes back to the system after every so many bytes.
void trim_heap(size_t freed) {
  constexpr size_t kOften = 16 << 20;
  static thread_local size_t since_last = 0;
  since_last += freed;
  if (since_last >= kOften) {
    since_last = 0;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
  }
}

}  // namespace

struct DeferredConstruction::Implementation
    : std::enable_shared_from_this<DeferredConstruction::Implementation> {
  /// Behind the storage of a deferred tensor.
  struct Handle {
    std::shared_ptr<Implementation> records;
    const c10::StorageImpl* form;
  };
  static void delete_handle(void* context) {
    const std::unique_ptr<Handle> handle(static_cast<Handle*>(context));
    handle->records->release(handle->form);
  }
  static Handle* handle_of(const torch::Tensor& tensor) {
    auto* const storage = storage_of(tensor);
    if (storage == nullptr) {
      return nullptr;
    }
    const auto& data = storage->_mutable_data_ptr_no_checks();
    return data.get_deleter() == &delete_handle ? static_cast<Handle*>(data.get_context())
                                                : nullptr;
  }

  static bool before_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                              Stack* stack);
  void make(const c10::OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack);
  void record(const c10::OperatorHandle& op, Stack* stack);
  bool is_large(const c10::OperatorHandle& op, Stack arguments) const;
  Stack run_without_memory(const c10::OperatorHandle& op, Stack arguments) const;
  torch::Tensor deferred_result(const torch::Tensor& form, const std::vector<Argument>& arguments,
                                Record& record);
  torch::Tensor new_tensor(const torch::Tensor& form);
  torch::Tensor twin_of(const torch::Tensor& tensor) const;
  void keep(const std::shared_ptr<const Record>& record);
  bool replaces_all(const Record& record, const c10::StorageImpl* form) const;
  Stack execute(const Record& record, std::unordered_map<const c10::StorageImpl*, c10::Storage>&,
                bool keeps_written);
  c10::Storage contents(const c10::StorageImpl* form, size_t end);
  void release(const c10::StorageImpl* form);

  static thread_local Implementation* in_scope;

  size_t smallest_bytes = 0;
  bool is_open = true;
  size_t next_number = 0;
  std::unordered_map<const c10::StorageImpl*, Memory> memories;
};

thread_local DeferredConstruction::Implementation* DeferredConstruction::Implementation::in_scope =
    nullptr;

bool DeferredConstruction::Implementation::before_operator(const c10::OperatorHandle& op,
                                                           c10::DispatchKeySet keys, Stack* stack) {
  const auto arguments = torch::jit::last(*stack, op.schema().arguments().size());
  Implementation* records = nullptr;
  for_each_tensor(arguments, [&](const torch::Tensor& tensor) {
    if (const auto* const handle = handle_of(tensor)) {
      records = handle->records.get();
    }
  });
  if (records == nullptr && in_scope == nullptr) {
    return false;
  }
  if (op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) {
    return false;  // its parts come by
  }
  if (records == nullptr) {
    in_scope->make(op, keys, stack);
  } else if (records->is_open) {
    records->record(op, stack);
  } else {
    for_each_tensor(arguments, [](const torch::Tensor& tensor) { materialize(tensor); });
    return false;
  }
  return true;
}

/// An operator without deferred tensors: a factory of a large one, or one that runs as ever.
void DeferredConstruction::Implementation::make(const c10::OperatorHandle& op,
                                                c10::DispatchKeySet keys, Stack* stack) {
  const auto& schema = op.schema();
  const auto arguments = torch::jit::last(*stack, schema.arguments().size());
  bool is_factory = schema.returns().size() == 1 && schema.argumentIndexWithName("device");
  for_each_tensor(arguments, [&](const torch::Tensor&) { is_factory = false; });
  if (is_factory) {
    const auto& device = arguments[*schema.argumentIndexWithName("device")];
    is_factory = device.isNone() || device.toDevice().is_cpu();
  }
  if (is_factory && is_large(op, arguments.vec())) {
    record(op, stack);
    return;
  }
  const GuardedStorage::Unguarded unrecorded;
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, deferred_key),
                     stack);
}

bool DeferredConstruction::Implementation::is_large(const c10::OperatorHandle& op,
                                                    Stack arguments) const {
  try {
    const auto form = run_without_memory(op, std::move(arguments)).at(0).toTensor();
    return form.layout() == torch::kStrided && form.storage().nbytes() >= smallest_bytes;
  } catch (const c10::Error&) {
    return false;  // what is wrong shows when it runs
  }
}

/// What it returns, in form. Writes in `arguments` change the form of meta tensors.
Stack DeferredConstruction::Implementation::run_without_memory(const c10::OperatorHandle& op,
                                                               Stack arguments) const {
  const GuardedStorage::Unguarded unrecorded;
  const torch::NoGradGuard no_grad;
  const auto& schema = op.schema();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto& name = schema.arguments()[i].name();
    if (name == "device") {
      if (!arguments[i].isNone() && !arguments[i].toDevice().is_cpu()) {
        refuse(op, "asks for another device than the processor, which is the strategy's task.");
      }
      arguments[i] = c10::Device(c10::kMeta);
    } else if (name == "pin_memory") {
      arguments[i] = c10::IValue();
    }
    arguments[i] = map_tensors(arguments[i], [](const torch::Tensor& tensor) {
      if (!tensor.defined() || tensor.is_meta()) {
        return tensor;
      }
      auto form = at::empty_strided(tensor.sizes(), tensor.strides(),
                                    tensor.options().device(torch::kMeta).requires_grad(false));
      if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {  // for the dtype of results
        form.unsafeGetTensorImpl()->set_wrapped_number(true);
      }
      return form;
    });
  }
  op.callBoxed(arguments);
  return arguments;
}

void DeferredConstruction::Implementation::record(const c10::OperatorHandle& op, Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const auto record = std::make_shared<Record>(Record{next_number++, op, {}, {}, {}, {}});
  std::vector<Argument> arguments;
  bool writes_values = false;
  for (size_t i = 0; i < count; ++i) {
    const auto replace = [&](const torch::Tensor& tensor) {
      const bool is_deferred = handle_of(tensor) != nullptr;
      arguments.push_back({tensor, is_deferred ? twin_of(tensor) : tensor});
      if (!is_deferred) {
        writes_values |= tensor.defined() && is_written(op, i);
        record->versions.push_back(version_of(tensor));
      }
      return arguments.back().twin;
    };
    record->arguments.push_back(map_tensors(torch::jit::peek(*stack, i, count), replace));
  }
  if (op.hasTag(at::Tag::nondeterministic_seeded)) {
    record->random.emplace(generator_among(record->arguments));
  }
  torch::jit::drop(*stack, count);
  std::unordered_map<const c10::StorageImpl*, c10::Storage> values;
  if (writes_values) {  // into a tensor that has memory: now or never
    const auto results = execute(*record, values, /*keeps_written=*/true);
    stack->insert(stack->end(), results.begin(), results.end());
    return;
  }
  Stack results;
  try {
    results = run_without_memory(op, record->arguments);
  } catch (const c10::Error& error) {
    refuse(op, std::string("needs values of a tensor that has none yet (") +
                   error.what_without_backtrace() + ").");
  }
  for (const auto& result : results) {
    stack->push_back(map_tensors(result, [&](const torch::Tensor& form) {
      return deferred_result(form, arguments, *record);
    }));
  }
  if (record->random) {  // the generator is left as it would be
    size_t nbytes = 0;
    for_each_tensor(execute(*record, values, /*keeps_written=*/false),
                    [&](const torch::Tensor& tensor) { nbytes += tensor.nbytes(); });
    values.clear();
    trim_heap(nbytes);
  }
  keep(record);
}

/// Adds a record to the memories that it changes.
void DeferredConstruction::Implementation::keep(const std::shared_ptr<const Record>& record) {
  std::unordered_set<const c10::StorageImpl*> used, changed;
  for (size_t i = 0; i < record->arguments.size(); ++i) {
    for_each_tensor(record->arguments[i], [&](const torch::Tensor& tensor) {
      if (memories.contains(storage_of(tensor))) {
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
  for (const auto* form : changed) {
    auto& memory = memories.at(form);
    if (!memory.is_read && replaces_all(*record, form)) {
      memory.writers.clear();
    }
    memory.writers.push_back(record);
  }
  for (const auto* form : used) {
    memories.at(form).is_read |= changed.size() > (changed.contains(form) ? 1 : 0);
  }
}

/// A meta tensor of the same memory, so that an operator on it shows what it returns views of.
torch::Tensor DeferredConstruction::Implementation::twin_of(const torch::Tensor& tensor) const {
  return tensor_over(memories.at(handle_of(tensor)->form).form, meta_keys(), tensor);
}

/// Of what an operator returned for meta tensors: an argument itself, a view of one, or a new one.
torch::Tensor DeferredConstruction::Implementation::deferred_result(
    const torch::Tensor& form, const std::vector<Argument>& arguments, Record& record) {
  record.made.emplace_back();
  if (!form.defined()) {
    return form;
  }
  for (const auto& [tensor, twin] : arguments) {
    if (twin.is_same(form)) {
      if (storage_of(twin) != handle_of(tensor)->form || twin.sizes() != tensor.sizes() ||
          twin.strides() != tensor.strides()) {
        refuse(record.op, "gives another shape to a tensor that has no memory yet.");
      }
      return tensor;
    }
    if (storage_of(twin) == storage_of(form)) {
      return tensor_over(tensor.storage(), cpu_keys().add(deferred_key), form);
    }
  }
  record.made.back() = form;
  return new_tensor(form);
}

torch::Tensor DeferredConstruction::Implementation::new_tensor(const torch::Tensor& form) {
  const size_t nbytes = form.storage().nbytes();
  const auto* const key = storage_of(form);
  memories[key] = {form.storage(), nbytes, {}, false};
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), nbytes,
      c10::DataPtr(nullptr, new Handle{shared_from_this(), key}, &delete_handle, torch::kCPU),
      /*allocator=*/nullptr, /*resizable=*/false);
  refuse_reads(*storage,
               std::string("FSDP, deferred construction: the memory of a tensor was asked for "
                           "before it had values. ") +
                   kWhatToDo);
  return tensor_over(std::move(storage), cpu_keys().add(deferred_key), form);
}

/// Whether nothing of what the memory held before counts after this record.
bool DeferredConstruction::Implementation::replaces_all(const Record& record,
                                                        const c10::StorageImpl* form) const {
  static const std::unordered_set<std::string> kReplacing = {
      "aten::zero_",    "aten::fill_",   "aten::copy_",        "aten::normal_",
      "aten::uniform_", "aten::random_", "aten::exponential_", "aten::log_normal_"};
  if (!kReplacing.contains(record.op.operator_name().name)) {
    return false;
  }
  size_t uses = 0;
  for_each_tensor(record.arguments,
                  [&](const torch::Tensor& tensor) { uses += storage_of(tensor) == form ? 1 : 0; });
  const auto target = record.arguments[0].toTensor();
  return uses == 1 && storage_of(target) == form && target.is_non_overlapping_and_dense() &&
         target.nbytes() == memories.at(form).nbytes;
}

/// Runs the operator on real tensors. `values` holds the memory of those that it has by now, and
/// gets that of the others, as it was before the record.
Stack DeferredConstruction::Implementation::execute(
    const Record& record, std::unordered_map<const c10::StorageImpl*, c10::Storage>& values,
    bool keeps_written) {
  const GuardedStorage::Unguarded unrecorded;
  const torch::NoGradGuard no_grad;
  Stack stack;
  auto version = record.versions.begin();
  for (size_t i = 0; i < record.arguments.size(); ++i) {
    const bool is_scratch = !keeps_written && is_written(record.op, i);
    stack.push_back(map_tensors(record.arguments[i], [&](const torch::Tensor& tensor) {
      const auto memory = memories.find(storage_of(tensor));
      if (memory == memories.end()) {
        if (version_of(tensor) != *version++) {
          refuse(record.op, "took a tensor that was written to later.");
        }
        return tensor;
      }
      auto& value = values[memory->first];
      if (!value && !is_scratch) {
        value = contents(memory->first, record.number);
      }
      if (!value) {
        value = at::empty({static_cast<int64_t>(memory->second.nbytes)}, torch::kUInt8).storage();
      }
      return tensor_over(value, cpu_keys(), tensor);
    }));
  }
  record.op.callBoxed(stack);
  return stack;
}

/// What the records before `end` make of a memory; null for none.
c10::Storage DeferredConstruction::Implementation::contents(const c10::StorageImpl* form,
                                                            size_t end) {
  c10::Storage memory;
  const auto writers = memories.at(form).writers;
  for (const auto& record : writers) {
    if (record->number >= end) {
      break;
    }
    std::unordered_map<const c10::StorageImpl*, c10::Storage> values;
    if (memory) {
      values[form] = std::move(memory);
    }
    const std::optional<AsDrawn> as_drawn =
        record->random ? std::optional<AsDrawn>(std::in_place, *record->random) : std::nullopt;
    const auto results = execute(*record, values, /*keeps_written=*/true);
    memory = values[form];
    size_t next = 0;
    for_each_tensor(results, [&](const torch::Tensor& tensor) {
      const auto& made = record->made[next++];
      if (made.defined() && storage_of(made) == form) {
        TRAINER_CHECK(tensor.strides() == made.strides(), "values lie as the meta tensor said");
        memory = tensor.storage();
      }
    });
  }
  return memory;
}

/// No tensor has that memory any more.
void DeferredConstruction::Implementation::release(const c10::StorageImpl* form) {
  if (!memories.at(form).is_read) {
    memories.erase(form);
  }
}

DeferredConstruction::DeferredConstruction(size_t smallest_bytes)
    : implementation_(std::make_shared<Implementation>()) {
  deferred_key = set_operator_hook(&Implementation::before_operator);
  if (deferred_key == c10::DispatchKey::Undefined) {
    throw UsageError(
        "FSDP: deferred_construction needs a dispatch key that this LibTorch does not have "
        "(DeferredInit). Set it to false, or use LibTorch 2.15.");
  }
  implementation_->smallest_bytes = smallest_bytes;
}

DeferredConstruction::~DeferredConstruction() { implementation_->is_open = false; }

std::shared_ptr<void> DeferredConstruction::scope() {
  struct Scope {
    explicit Scope(Implementation& records) { Implementation::in_scope = &records; }
    ~Scope() { Implementation::in_scope = nullptr; }
    const c10::impl::IncludeDispatchKeyGuard key{deferred_key};
  };
  return std::make_shared<Scope>(*implementation_);
}

bool DeferredConstruction::is_deferred(const torch::Tensor& tensor) {
  return Implementation::handle_of(tensor) != nullptr;
}

void DeferredConstruction::materialize(const torch::Tensor& tensor) {
  if (const auto* const handle = Implementation::handle_of(tensor)) {
    const auto records = handle->records;     // the handle goes with the old memory
    trim_heap(storage_of(tensor)->nbytes());  // what the one before it has left
    auto memory = records->contents(handle->form, SIZE_MAX);
    TRAINER_CHECK(memory.use_count() == 1, "what an operator makes has memory of its own");
    auto* const storage = storage_of(tensor);
    allow_reads(*storage);
    storage->set_data_ptr_noswap(
        memory.unsafeGetStorageImpl()->set_data_ptr(c10::DataPtr(nullptr, torch::kCPU)));
  }
  if (deferred_key != c10::DispatchKey::Undefined && tensor.key_set().has(deferred_key) &&
      GuardedStorage::of(tensor) == nullptr) {
    const GuardedStorage::Unguarded unrecorded;
    torch::Tensor(tensor).set_data(tensor_over(tensor.storage(), cpu_keys(), tensor));
  }
}

}  // namespace trainer
