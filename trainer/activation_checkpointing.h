#pragma once
// Activation checkpointing: a block keeps its inputs alone, and its backward pass runs it again for
// what lies between. Memory for time, about a third more of it. C++ modules have no hooks around
// forward(), so a module wraps the calls of its blocks:
//
//   for (const auto& block : *blocks) {
//     x = trainer::checkpointed(block->as<Block>(), x);
//   }
//
// `trainer.activation_checkpointing` then chooses: none (the default, where the wrapper calls the
// block and does nothing else), all, or the names of modules, as blocks.*. Source: Chen et al.
// 2016, arXiv:1604.06174.

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

namespace trainer {
namespace detail {

template <class T>
concept IsModule = std::derived_from<std::remove_cvref_t<T>, torch::nn::Module>;

/// A holder as torch::nn::Linear, a shared_ptr, or a pointer.
template <class T>
concept PointsToModule = requires(T& block) {
  requires IsModule<decltype(*block)>;
};

template <class T>
constexpr bool kHoldsOneKind = false;
template <class T>
constexpr bool kHoldsOneKind<std::vector<T>> = true;

/// Tensors in values, tuples, optionals and vectors of them; anything else is passed over.
template <class T, class Action>
void for_each_tensor(T& value, const Action& action) {
  using Value = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Value, torch::Tensor>) {
    action(value);
  } else if constexpr (requires { std::tuple_size<Value>::value; }) {
    std::apply([&](auto&... each) { (for_each_tensor(each, action), ...); }, value);
  } else if constexpr (kHoldsOneKind<Value>) {
    for (auto&& each : value) {
      for_each_tensor(each, action);
    }
  } else if constexpr (std::is_same_v<Value, std::optional<torch::Tensor>>) {
    if (value) {
      action(*value);
    }
  }
}

template <class T>
std::vector<torch::Tensor> tensors_of(const T& value) {
  std::vector<torch::Tensor> all;
  for_each_tensor(value, [&](const torch::Tensor& tensor) { all.push_back(tensor); });
  return all;
}

/// Whether the run at hand has chosen this block; null for code that is no module.
bool is_checkpointed(const torch::nn::Module* block);

/// The first run of a block, from construction to finish().
class FirstRun {
 public:
  /// Remembers what the second run needs: random numbers, autocast, the tensors it is given.
  /// `block` is null for code that is no module.
  FirstRun(const torch::nn::Module* block, std::vector<torch::Tensor> inputs);
  FirstRun(const FirstRun&) = delete;
  FirstRun& operator=(const FirstRun&) = delete;
  ~FirstRun();
  /// Takes the graph from the outputs and has their backward pass call `again`.
  void finish(const std::vector<torch::Tensor*>& outputs,
              std::function<std::vector<torch::Tensor>()> again);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

template <class Run>
auto run_checkpointed(const torch::nn::Module* block, const Run& run,
                      std::vector<torch::Tensor> inputs) {
  if (!is_checkpointed(block)) {
    return run();
  }
  FirstRun first(block, std::move(inputs));
  auto result = run();
  std::vector<torch::Tensor*> outputs;
  for_each_tensor(result, [&](torch::Tensor& tensor) { outputs.push_back(&tensor); });
  first.finish(outputs, [run] { return tensors_of(run()); });
  return result;
}

}  // namespace detail

/// What `block.forward(inputs...)` returns, or `block(inputs...)` of a lambda, which has no name
/// and is chosen by `all` alone. Gradients, dropout and mixed precision are those of the plain
/// call, for any tensors that the block takes as inputs or holds itself, without a gradient too.
/// Random numbers are drawn again on the processor and on the GPUs where the inputs or a module's
/// parameters lie.
///
/// The block must do the same the second time: what it counts or logs, it counts twice; running
/// statistics of batch norm move twice. It must live, with all that it refers to, until the
/// backward pass; a lambda captures local variables by value. Throws UsageError where the block or
/// later code writes to an input in place.
template <class Block, class... Inputs>
auto checkpointed(Block&& block, const Inputs&... inputs) {
  if constexpr (detail::PointsToModule<Block>) {
    return checkpointed(*block, inputs...);
  } else if constexpr (detail::IsModule<Block>) {
    return detail::run_checkpointed(
        &block, [&block, inputs...] { return block.forward(inputs...); },
        detail::tensors_of(std::tie(inputs...)));
  } else {
    return detail::run_checkpointed(
        nullptr, [block, inputs...] { return block(inputs...); },
        detail::tensors_of(std::tie(inputs...)));
  }
}

}  // namespace trainer
