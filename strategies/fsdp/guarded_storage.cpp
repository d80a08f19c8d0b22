#include <strategies/fsdp/guarded_storage.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/TensorImpl.h>
#include <torch/library.h>

namespace trainer {

/// Of one operator: the guarded storages among its arguments, at most a few.
class GuardedStorage::Pin : public at::ObserverContext {
 public:
  Pin() = default;
  ~Pin() override {
    for (const auto& [storage, writes] : storages_) {
      storage->pins_ = std::max(0, storage->pins_ - 1);
    }
  }
  Pin(Pin&&) = default;  // the other one holds nothing then
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;

  void add(const c10::IValue& argument, bool writes) {
    if (argument.isTensor()) {
      add(argument.toTensor(), writes);
    } else if (argument.isTensorList() || argument.isList()) {
      for (const auto& element : argument.toListRef()) {
        if (element.isTensor()) {
          add(element.toTensor(), writes);
        }
      }
    }
  }
  bool is_empty() const { return storages_.empty(); }

  void touch() const {
    for (const auto& [storage, writes] : storages_) {
      storage->touch(writes);
    }
  }
  /// For an observer, whose exceptions LibTorch drops: the operator throws it, as it reads.
  void poison(const std::string& message) const {
    for (const auto& [storage, writes] : storages_) {
      if (!storage->has_contents()) {
        storage->drop_contents(message);
      }
    }
  }

 private:
  void add(const torch::Tensor& tensor, bool writes) {
    GuardedStorage* const storage = GuardedStorage::of(tensor);
    if (storage == nullptr) {
      return;
    }
    for (auto& [known, is_written] : storages_) {
      if (known == storage) {
        is_written |= writes;
        return;
      }
    }
    storages_.emplace_back(storage, writes);
    ++storage->pins_;
  }

  std::vector<std::pair<GuardedStorage*, bool>> storages_;
};

namespace {

// In templates: a key or a function that this LibTorch lacks is no error there.

template <class Keys>
constexpr bool kHasKey = requires {
  Keys::DeferredInit;
};

template <class Keys>
Keys key_of() {
  if constexpr (kHasKey<Keys>) {
    return Keys::DeferredInit;
  } else {
    return Keys::Undefined;
  }
}

template <class Storage>
void set_message(Storage& storage, const std::string& message) {
  if constexpr (requires { storage.clear_data_ptr_access_error_msg_(); }) {
    storage.release_data_and_set_meta_custom_data_ptr_error_msg_(message);
  }
}

template <class Storage>
void clear_message(Storage& storage) {
  if constexpr (requires { storage.clear_data_ptr_access_error_msg_(); }) {
    storage.clear_data_ptr_access_error_msg_();
  }
}

/// By which a guarded storage is known. The memory belongs to somebody else.
void deleter(void*) {}

const c10::DispatchKey kKey = key_of<c10::DispatchKey>();

std::atomic<OperatorHook> operator_hook = nullptr;

void before_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                     torch::jit::Stack* stack) {
  if (const OperatorHook hook = operator_hook; hook != nullptr && hook(op, keys, stack)) {
    return;
  }
  GuardedStorage::Pin pin;
  const auto& arguments = op.schema().arguments();
  const auto values = torch::jit::last(*stack, arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* const alias = arguments[i].alias_info();
    pin.add(values[i], alias != nullptr && alias->isWrite());
  }
  pin.touch();
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

void intercept_by_key() {
  static const torch::Library fallback = [] {
    torch::Library library(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
    library.fallback(torch::CppFunction::makeFromBoxedFunction<&before_operator>());
    return library;
  }();
}

std::unique_ptr<at::ObserverContext> observe(const at::RecordFunction& function) {
  const auto name = function.operator_name();
  const bool writes = name && !name->name.empty() &&
                      (name->name.back() == '_' || name->overload_name.ends_with("out"));
  GuardedStorage::Pin pin;
  for (const auto& input : function.inputs()) {
    pin.add(input, writes);
  }
  if (pin.is_empty()) {
    return nullptr;
  }
  try {
    pin.touch();
  } catch (const std::exception& error) {
    pin.poison(error.what());
  }
  return std::make_unique<GuardedStorage::Pin>(std::move(pin));
}

/// Installed as long as there is a storage that needs it.
std::shared_ptr<void> intercept_by_observer() {
  static std::weak_ptr<void> installed;
  auto observer = installed.lock();
  if (observer == nullptr) {
    const auto handle = at::addGlobalCallback(
        at::RecordFunctionCallback(&observe).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
    observer = std::shared_ptr<void>(nullptr, [handle](void*) { at::removeCallback(handle); });
    installed = observer;
  }
  return observer;
}

}  // namespace

Interception default_interception() {
  return kHasKey<c10::DispatchKey> ? Interception::kDispatchKey : Interception::kObserver;
}

c10::DispatchKey set_operator_hook(OperatorHook hook) {
  if (kKey != c10::DispatchKey::Undefined) {
    operator_hook = hook;
    intercept_by_key();
  }
  return kKey;
}

void refuse_reads(c10::StorageImpl& storage, const std::string& message) {
  set_message(storage, message);
}

void allow_reads(c10::StorageImpl& storage) { clear_message(storage); }

GuardedStorage::Unguarded::Unguarded()
    : without_key_(kKey == c10::DispatchKey::Undefined ? c10::DispatchKeySet()
                                                       : c10::DispatchKeySet(kKey)) {}

GuardedStorage::GuardedStorage(Interception way, size_t nbytes, torch::Device device)
    : way_(way), device_(device), nbytes_(nbytes) {
  if (way == Interception::kDispatchKey) {
    intercept_by_key();
  } else {
    observer_ = intercept_by_observer();
  }
  storage_ = c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), nbytes,
                                                   c10::DataPtr(nullptr, this, &deleter, device),
                                                   /*allocator=*/nullptr, /*resizable=*/false);
}

GuardedStorage::~GuardedStorage() {
  // Tensors of it may live on, without contents.
  storage_->set_data_ptr_noswap(c10::DataPtr(nullptr, device_));
  set_message(*storage_, "the tensor was part of a sharded module, which is gone");
}

GuardedStorage* GuardedStorage::of(const torch::Tensor& tensor) {
  if (!tensor.defined() || !tensor.unsafeGetTensorImpl()->has_storage()) {
    return nullptr;
  }
  const auto& data = tensor.unsafeGetTensorImpl()
                         ->unsafe_storage()
                         .unsafeGetStorageImpl()
                         ->_mutable_data_ptr_no_checks();
  return data.get_deleter() == &deleter ? static_cast<GuardedStorage*>(data.get_context())
                                        : nullptr;
}

torch::Tensor GuardedStorage::view(int64_t offset, at::IntArrayRef sizes,
                                   torch::ScalarType dtype) const {
  auto keys =
      c10::DispatchKeySet(device_.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU);
  keys = keys | c10::getAutogradRelatedKeySetFromBackend(device_.is_cuda()
                                                             ? c10::BackendComponent::CUDABit
                                                             : c10::BackendComponent::CPUBit);
  if (way_ == Interception::kDispatchKey) {
    keys = keys.add(kKey);
  }
  auto impl = c10::make_intrusive<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(storage_),
                                                   keys, c10::scalarTypeToTypeMeta(dtype));
  impl->set_storage_offset(offset);
  impl->set_sizes_contiguous(sizes);
  return torch::Tensor(std::move(impl));
}

void GuardedStorage::set_contents(void* memory) {
  clear_message(*storage_);
  storage_->set_nbytes(nbytes_);
  storage_->set_data_ptr_noswap(c10::DataPtr(memory, this, &deleter, device_));
  has_contents_ = true;
}

void GuardedStorage::drop_contents(const std::string& message) {
  storage_->set_data_ptr_noswap(c10::DataPtr(nullptr, this, &deleter, device_));
  set_message(*storage_, message);
  has_contents_ = false;
}

}  // namespace trainer
