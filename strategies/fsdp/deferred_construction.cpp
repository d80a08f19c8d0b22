#include <strategies/fsdp/deferred_construction.h>

#include <string>
#include <utility>
#include <vector>

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/TensorImpl.h>
#include <torch/library.h>
#include <torch/utils.h>

#include <strategies/fsdp/guarded_storage.h>
#include <strategies/fsdp/operator_log.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

using Stack = torch::jit::Stack;

c10::DispatchKey deferred_key = c10::DispatchKey::Undefined;

/// A tensor that an operator takes, and the meta tensor that stands for it where it is deferred.
struct Argument {
  torch::Tensor tensor, twin;
};

at::Generator generator_among(const Stack& arguments) {
  for (const auto& argument : arguments) {
    if (argument.isGenerator()) {
      return argument.toGenerator();
    }
  }
  return at::globalContext().defaultGenerator(torch::kCPU);
}

}  // namespace

struct DeferredConstruction::Implementation
    : std::enable_shared_from_this<DeferredConstruction::Implementation> {
  /// Behind the storage of a deferred tensor.
  struct Handle {
    std::shared_ptr<Implementation> records;
    OperatorLog::Memory memory;
  };
  static void delete_handle(void* context) {
    const std::unique_ptr<Handle> handle(static_cast<Handle*>(context));
    handle->records->log.drop(handle->memory);
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
                                OperatorLog::Record& record);
  torch::Tensor new_tensor(const torch::Tensor& form);
  torch::Tensor twin_of(const torch::Tensor& tensor) const;

  static thread_local Implementation* in_scope;

  size_t min_bytes = 0;
  bool is_open = true;
  OperatorLog log;
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
    return form.layout() == torch::kStrided && form.storage().nbytes() >= min_bytes;
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
        refuse_deferred(
            op, "asks for another device than the processor, which is the strategy's task.");
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
  const auto record = log.new_record(op);
  std::vector<Argument> arguments;
  bool writes_values = false, writes_deferred = false;
  for (size_t i = 0; i < count; ++i) {
    const auto replace = [&](const torch::Tensor& tensor) {
      const bool is_deferred = handle_of(tensor) != nullptr;
      arguments.push_back({tensor, is_deferred ? twin_of(tensor) : tensor});
      if (is_deferred) {
        writes_deferred |= is_written(op, i);
      } else {
        writes_values |= tensor.defined() && is_written(op, i);
        record->versions.push_back(version_of(tensor));
      }
      return arguments.back().twin;
    };
    record->arguments.push_back(map_tensors(torch::jit::peek(*stack, i, count), replace));
  }
  if (op.hasTag(at::Tag::nondeterministic_seeded)) {
    record->random.emplace_back(generator_among(record->arguments));
  }
  if (writes_values && writes_deferred) {
    refuse_deferred(op,
                    "writes to tensors that have no memory yet and to others together. Call it for "
                    "one tensor at a time.");
  }
  torch::jit::drop(*stack, count);
  if (writes_values) {  // into a tensor that has memory: now or never
    const auto results = log.run(*record);
    stack->insert(stack->end(), results.begin(), results.end());
    return;
  }
  Stack results;
  try {
    results = run_without_memory(op, record->arguments);
  } catch (const c10::Error& error) {
    refuse_deferred(op, std::string("needs values of a tensor that has none yet (") +
                            error.what_without_backtrace() + ").");
  }
  for (const auto& result : results) {
    stack->push_back(map_tensors(result, [&](const torch::Tensor& form) {
      return deferred_result(form, arguments, *record);
    }));
  }
  if (!record->random.empty()) {  // the generator is left as it would be
    log.draw(*record);
  }
  log.keep(record);
}

/// A meta tensor of the same memory, so that an operator on it shows what it returns views of.
torch::Tensor DeferredConstruction::Implementation::twin_of(const torch::Tensor& tensor) const {
  return tensor_over(log.form_of(handle_of(tensor)->memory), meta_keys(), tensor);
}

/// Of what an operator returned for meta tensors: an argument itself, a view of one, or a new one.
torch::Tensor DeferredConstruction::Implementation::deferred_result(
    const torch::Tensor& form, const std::vector<Argument>& arguments,
    OperatorLog::Record& record) {
  record.made.emplace_back();
  if (!form.defined()) {
    return form;
  }
  for (const auto& [tensor, twin] : arguments) {
    if (twin.is_same(form)) {
      if (storage_of(twin) != handle_of(tensor)->memory || twin.sizes() != tensor.sizes() ||
          twin.strides() != tensor.strides()) {
        refuse_deferred(record.op, "gives another shape to a tensor that has no memory yet.");
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
  const auto memory = log.add(form);
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), form.storage().nbytes(),
      c10::DataPtr(nullptr, new Handle{shared_from_this(), memory}, &delete_handle, torch::kCPU),
      /*allocator=*/nullptr, /*resizable=*/false);
  refuse_reads(*storage, read_too_early());
  return tensor_over(std::move(storage), cpu_keys().add(deferred_key), form);
}

DeferredConstruction::DeferredConstruction(size_t min_bytes)
    : implementation_(std::make_shared<Implementation>()) {
  deferred_key = set_operator_hook(&Implementation::before_operator);
  if (deferred_key == c10::DispatchKey::Undefined) {
    throw UsageError(
        "FSDP: deferred_construction needs a dispatch key that this LibTorch does not have "
        "(DeferredInit). Set it to false, or use LibTorch 2.15.");
  }
  implementation_->min_bytes = min_bytes;
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
    const auto records = handle->records;           // the handle goes with the old memory
    trim_heap_after(storage_of(tensor)->nbytes());  // what the one before it has left
    auto memory = records->log.contents(handle->memory);
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
