#pragma once
// The callbacks of a run, called in order with the Trainer and the module they belong to.

#include <memory>
#include <utility>
#include <vector>

#include <trainer/callback.h>

namespace trainer {

class CallbackList {
 public:
  CallbackList(Trainer& trainer, Module& module, const std::vector<std::shared_ptr<Callback>>& callbacks)
      : trainer_(trainer), module_(module), all_(callbacks) {
    for (const auto& callback : callbacks) {
      (callback->monitors() ? monitoring_ : acting_).push_back(callback);
    }
  }

  /// Calls a hook of every callback: `callbacks.call<&Callback::on_train_start>()`.
  template <auto Hook, class... Args>
  void call(Args&&... args) {
    call_each<Hook>(all_, args...);
  }
  /// Those that do not monitor, and those that do: see callback.h.
  template <auto Hook, class... Args>
  void call_acting(Args&&... args) {
    call_each<Hook>(acting_, args...);
  }
  template <auto Hook, class... Args>
  void call_monitoring(Args&&... args) {
    call_each<Hook>(monitoring_, args...);
  }

  const std::vector<std::shared_ptr<Callback>>& all() const { return all_; }

 private:
  using List = std::vector<std::shared_ptr<Callback>>;

  template <auto Hook, class... Args>
  void call_each(const List& callbacks, Args&... args) {
    for (const auto& callback : callbacks) {
      ((*callback).*Hook)(trainer_, module_, args...);
    }
  }

  Trainer& trainer_;
  Module& module_;
  List all_, acting_, monitoring_;
};

}  // namespace trainer
