#include <trainer/checkpoint/module_state.h>

#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/optimizer_state.h>

namespace trainer {
namespace {

std::string shape_of(const torch::Tensor& tensor) {
  return fmt::format("{} {}", c10::str(tensor.sizes()), c10::toString(tensor.scalar_type()));
}

/// Every name of every parameter and buffer, tied ones too.
std::vector<std::pair<std::string, torch::Tensor>> all_tensors(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> all;
  for (const auto& item : module.named_parameters(/*recurse=*/true)) {
    all.emplace_back(item.key(), item.value());
  }
  for (const auto& item : module.named_buffers(/*recurse=*/true)) {
    all.emplace_back(item.key(), item.value());
  }
  return all;
}

std::vector<std::string> parameter_names(const torch::nn::Module& module,
                                         const torch::optim::Optimizer& optimizer) {
  std::unordered_map<const void*, std::string> names;
  for (const auto& [name, tensor] : all_tensors(module)) {
    names.emplace(tensor.unsafeGetTensorImpl(), name);
  }
  std::vector<std::string> result;
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) {
      const auto found = names.find(parameter.unsafeGetTensorImpl());
      result.push_back(found != names.end() ? found->second
                                            : fmt::format("optimizer.{}", result.size()));
    }
  }
  return result;
}

std::vector<torch::Tensor> parameters_of(const torch::optim::Optimizer& optimizer) {
  std::vector<torch::Tensor> all;
  for (const auto& group : optimizer.param_groups()) {
    all.insert(all.end(), group.params().begin(), group.params().end());
  }
  return all;
}

}  // namespace

safetensors::Tensors module_state(const torch::nn::Module& module) {
  safetensors::Tensors state;
  std::set<const void*> seen;
  for (auto& [name, tensor] : all_tensors(module)) {
    if (tensor.defined() && seen.insert(tensor.unsafeGetTensorImpl()).second) {
      state.emplace_back(name, tensor.detach());
    }
  }
  return state;
}

void load_module_state(torch::nn::Module& module, const safetensors::File& file) {
  const auto own = module_state(module);
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, tensor] : own) {
    known.insert(name);
    if (!file.contains(name)) {
      problems.push_back(fmt::format("missing in the checkpoint: {} {}", name, shape_of(tensor)));
      continue;
    }
    const auto saved = file.tensor(name);
    const bool converts = saved.is_floating_point() && tensor.is_floating_point();
    if (saved.sizes() != tensor.sizes() ||
        (saved.scalar_type() != tensor.scalar_type() && !converts)) {
      problems.push_back(fmt::format("other shape: {} is {} in the checkpoint, {} in the module",
                                     name, shape_of(saved), shape_of(tensor)));
    }
  }
  for (const auto& name : file.names()) {
    if (!known.contains(name)) {
      problems.push_back(
          fmt::format("not in the module: {} {}", name, shape_of(file.tensor(name))));
    }
  }
  if (!problems.empty()) {
    std::string all;
    for (const auto& problem : problems) {
      all += "\n  " + problem;
    }
    throw CheckpointError(
        fmt::format("{}: belongs to another architecture:{}\n  Use the configuration that the "
                    "checkpoint was made with (config.yaml lies in it), or another checkpoint.",
                    file.path().string(), all));
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) {
    torch::Tensor target = tensor;
    target.copy_(file.tensor(name));
  }
}

std::string init_module_state(torch::nn::Module& module, const safetensors::File& file) {
  const torch::NoGradGuard no_grad;
  const auto own = module_state(module);
  std::string lines;
  int64_t num_taken = 0;
  std::set<std::string> known;
  for (const auto& [name, tensor] : own) {
    known.insert(name);
    if (!file.contains(name)) {
      lines += fmt::format("\n  kept as made: {} {}, which the file does not have", name,
                           shape_of(tensor));
    } else if (const auto saved = file.tensor(name); saved.sizes() != tensor.sizes()) {
      lines += fmt::format("\n  kept as made: {} {}, which is {} in the file", name,
                           shape_of(tensor), shape_of(saved));
    } else {
      tensor.copy_(saved);
      ++num_taken;
    }
  }
  for (const auto& name : file.names()) {
    if (!known.contains(name)) {
      lines += fmt::format("\n  left aside: {} {}, which the module does not have", name,
                           shape_of(file.tensor(name)));
    }
  }
  const std::string report = fmt::format("{}: {} of the module's {} tensors are taken{}",
                                         file.path().string(), num_taken, own.size(), lines);
  if (num_taken == 0) {
    throw CheckpointError(report +
                          "\n  Give weights of this architecture, or leave --init_from out.");
  }
  return report;
}

safetensors::Tensors optimizer_tensors(const torch::nn::Module& module,
                                       const torch::optim::Optimizer& optimizer,
                                       const OfState& whole) {
  const auto names = parameter_names(module, optimizer);
  const auto parameters = parameters_of(optimizer);
  const auto state = optimizer_state(optimizer);
  safetensors::Tensors tensors;
  for (size_t i = 0; i < state.parameters.size(); ++i) {
    for (const auto& [key, tensor] : state.parameters[i]) {
      auto kept = whole ? whole(parameters.at(i), tensor) : tensor;
      if (kept.defined()) {
        tensors.emplace_back(names.at(i) + "." + key, std::move(kept));
      }
    }
  }
  return tensors;
}

nlohmann::json optimizer_groups(const torch::optim::Optimizer& optimizer) {
  return optimizer_state(optimizer).groups;
}

void load_optimizer(const torch::nn::Module& module, torch::optim::Optimizer& optimizer,
                    const safetensors::File& file, const nlohmann::json& groups,
                    const OfState& own) {
  const auto names = parameter_names(module, optimizer);
  const auto parameters = parameters_of(optimizer);
  OptimizerState state;
  state.groups = groups;
  state.parameters.resize(names.size());
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < names.size(); ++i) {
    index.emplace(names[i], i);
  }
  for (const auto& key : file.names()) {
    const size_t dot = key.rfind('.');
    const auto found = index.find(key.substr(0, dot));
    if (dot == std::string::npos || found == index.end()) {
      throw CheckpointError(fmt::format(
          "{}: has optimizer state '{}', but the optimizer has no such parameter.\n  Use "
          "the configuration that the checkpoint was made with.",
          file.path().string(), key));
    }
    const size_t i = found->second;
    const auto saved = file.tensor(key);
    state.parameters[i].emplace(key.substr(dot + 1), own ? own(parameters[i], saved) : saved);
  }
  load_optimizer_state(optimizer, state);
}

}  // namespace trainer
