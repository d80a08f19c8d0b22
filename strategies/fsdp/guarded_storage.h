#pragma once
// Storages of tensors whose contents are there only while an operator needs them: every operator
// that takes a tensor of such a storage, or a view of one, asks for its contents first.
//
// LibTorch's C++ modules have no forward hooks, and code often calls layer->forward(x) directly, so
// operators are where unmodified modules can be met. Two ways, both tested:
// - the dispatch key DeferredInit, which has no kernels of its own: operators without a guarded
//   tensor pay nothing for it;
// - an observer of all operators (at::RecordFunction), for a LibTorch without that key. It adds 0.1
//   to 0.2 us to each operator, and code under DisableRecordFunctionGuard goes past it.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/types.h>

namespace c10 {
class OperatorHandle;
}

namespace trainer {

enum class Interception { kDispatchKey, kObserver };

/// The better one of those that this LibTorch has.
Interception default_interception();

/// Runs an operator that has the dispatch key, before the guarded storages among its arguments are
/// asked; false: it is none of its business.
using OperatorHook = bool (*)(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                              std::vector<c10::IValue>* stack);
/// Has the fallback of the dispatch key call it from now on. Returns the key, Undefined where this
/// LibTorch has none.
c10::DispatchKey set_operator_hook(OperatorHook hook);

/// Reading the memory of a tensor of this storage throws the message, where LibTorch can do that;
/// and no more.
void refuse_reads(c10::StorageImpl& storage, const std::string& message);
void allow_reads(c10::StorageImpl& storage);

class GuardedStorage {
 public:
  /// Of `nbytes` bytes on `device`, without contents.
  GuardedStorage(Interception way, size_t nbytes, torch::Device device);
  GuardedStorage(const GuardedStorage&) = delete;
  GuardedStorage& operator=(const GuardedStorage&) = delete;
  virtual ~GuardedStorage();

  /// The guarded storage behind a tensor, null for any other tensor.
  static GuardedStorage* of(const torch::Tensor& tensor);

  /// A contiguous tensor in it, from its element `offset` of `dtype` on.
  torch::Tensor view(int64_t offset, at::IntArrayRef sizes, torch::ScalarType dtype) const;

  /// While it lives, operators of this thread do not ask for contents.
  class Unguarded;
  /// Calls touch() before the operator and keeps the contents in place until its end.
  class Pin;
  bool is_pinned() const { return pins_ > 0; }
  /// After an error: of operators that never came to their end.
  void drop_pins() { pins_ = 0; }

 protected:
  /// Before an operator that takes a tensor of it, or writes to one: set_contents() must have been
  /// called when it returns. What it throws, the operator throws.
  virtual void touch(bool writes) = 0;

  void set_contents(void* memory);
  /// From now on reading the memory without an operator throws this message.
  void drop_contents(const std::string& message);
  bool has_contents() const { return has_contents_; }

 private:
  const Interception way_;
  const torch::Device device_;
  const size_t nbytes_;
  c10::intrusive_ptr<c10::StorageImpl> storage_;
  std::shared_ptr<void> observer_;  // while it needs one
  bool has_contents_ = false;
  int pins_ = 0;
};

class GuardedStorage::Unguarded {
 public:
  Unguarded();
  Unguarded(const Unguarded&) = delete;
  Unguarded& operator=(const Unguarded&) = delete;

 private:
  c10::impl::ExcludeDispatchKeyGuard without_key_;
  at::DisableRecordFunctionGuard unobserved_;
};

}  // namespace trainer
