#pragma once
// The callbacks of a run, called in order with the Trainer and the module they belong to.

#include <memory>
#include <utility>
#include <vector>

#include <trainer/callback.h>

namespace trainer {

class CallbackList {
 public:
  CallbackList(Trainer& trainer, Module& module,
               const std::vector<std::shared_ptr<Callback>>& callbacks)
      : trainer_(trainer), module_(module) {
    for (const auto role :
         {Callback::Role::kActs, Callback::Role::kMonitors, Callback::Role::kSaves}) {
      for (const auto& callback : callbacks) {
        if (callback->role() == role) {
          all_.push_back(callback);
          (role == Callback::Role::kActs ? acting_ : monitoring_).push_back(callback);
        }
      }
    }
  }

  /// In the order in which they are called.
  const std::vector<std::shared_ptr<Callback>>& all() const { return all_; }

  /// One of them writes checkpoints.
  bool saves() const { return !all_.empty() && all_.back()->role() == Callback::Role::kSaves; }

  /// Calls a hook of every callback: `callbacks.call<&Callback::on_train_start>()`.
  template <auto Hook, class... Args>
  void call(Args&&... args) {
    call_each<Hook>(all_, args...);
  }
  /// Those that act, and those that monitor or save: see callback.h.
  template <auto Hook, class... Args>
  void call_acting(Args&&... args) {
    call_each<Hook>(acting_, args...);
  }
  template <auto Hook, class... Args>
  void call_monitoring(Args&&... args) {
    call_each<Hook>(monitoring_, args...);
  }

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
