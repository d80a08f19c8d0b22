#include <trainer/checkpoint/module_state.h>

#include <optional>
#include <set>
#include <unordered_map>

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/optim/optimizer_state.h>

namespace trainer {
namespace {

std::string shape_of(torch::IntArrayRef sizes, torch::ScalarType dtype) {
  return fmt::format("{} {}", c10::str(sizes), c10::toString(dtype));
}

std::string shape_of(const torch::Tensor& tensor) {
  return shape_of(tensor.sizes(), tensor.scalar_type());
}

std::string shape_of(const SavedTensors& saved, const std::string& name) {
  return shape_of(saved.sizes(name), saved.dtype(name));
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

/// Of optimizer state what belongs to a segment of the parameter. A scalar belongs to all of it.
torch::Tensor own_part(const SavedTensors& saved, const std::string& key,
                       const std::optional<Segment>& segment, bool is_scalar) {
  if (!segment || is_scalar) {
    return saved.tensor(key);
  }
  if (saved.sizes(key) != segment->sizes) {
    throw CheckpointError(fmt::format(
        "{}: optimizer state '{}' is {}, the parameter is {}.\n  Use the configuration "
        "that the checkpoint was made with.",
        saved.path().string(), key, c10::str(saved.sizes(key)), c10::str(segment->sizes)));
  }
  return saved.range(key, segment->first, segment->count);
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

StatePart module_part(const torch::nn::Module& module, const SegmentOf& segment_of) {
  StatePart part{module_state(module), {}};
  if (!segment_of) {
    return part;
  }
  std::set<std::string> names;
  for (const auto& [name, tensor] : part.tensors) {
    names.insert(name);
  }
  for (const auto& [name, tensor] : all_tensors(module)) {
    if (auto segment = names.contains(name) ? segment_of(tensor) : std::nullopt) {
      part.segments.emplace(name, std::move(*segment));
    }
  }
  return part;
}

void check_module_state(const StatePart& own, const SavedTensors& saved) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, tensor] : own.tensors) {
    known.insert(name);
    const auto segment = own.segments.find(name);
    const auto sizes = segment != own.segments.end() ? segment->second.sizes : tensor.sizes().vec();
    if (!saved.contains(name)) {
      problems.push_back(fmt::format("missing in the checkpoint: {} {}", name,
                                     shape_of(sizes, tensor.scalar_type())));
      continue;
    }
    const bool converts = c10::isFloatingType(saved.dtype(name)) && tensor.is_floating_point();
    if (sizes != saved.sizes(name) || (saved.dtype(name) != tensor.scalar_type() && !converts)) {
      problems.push_back(fmt::format("other shape: {} is {} in the checkpoint, {} in the module",
                                     name, shape_of(saved, name),
                                     shape_of(sizes, tensor.scalar_type())));
    }
  }
  for (const auto& name : saved.names()) {
    if (!known.contains(name)) {
      problems.push_back(fmt::format("not in the module: {} {}", name, shape_of(saved, name)));
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
                    saved.path().string(), all));
  }
}

void load_module_state(torch::nn::Module& module, const SavedTensors& saved,
                       const SegmentOf& segment_of) {
  const auto own = module_part(module, segment_of);
  check_module_state(own, saved);
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own.tensors) {
    torch::Tensor target = tensor;
    const auto segment = own.segments.find(name);
    target.copy_(segment != own.segments.end()
                     ? saved.range(name, segment->second.first, segment->second.count)
                     : saved.tensor(name));
  }
}

std::string init_module_state(torch::nn::Module& module, const SavedTensors& saved) {
  const torch::NoGradGuard no_grad;
  const auto own = module_state(module);
  std::string lines;
  int64_t num_taken = 0;
  std::set<std::string> known;
  for (const auto& [name, tensor] : own) {
    known.insert(name);
    if (!saved.contains(name)) {
      lines += fmt::format("\n  kept as made: {} {}, which the file does not have", name,
                           shape_of(tensor));
    } else if (tensor.sizes() != saved.sizes(name)) {
      lines += fmt::format("\n  kept as made: {} {}, which is {} in the file", name,
                           shape_of(tensor), shape_of(saved, name));
    } else {
      tensor.copy_(saved.tensor(name));
      ++num_taken;
    }
  }
  for (const auto& name : saved.names()) {
    if (!known.contains(name)) {
      lines += fmt::format("\n  left aside: {} {}, which the module does not have", name,
                           shape_of(saved, name));
    }
  }
  const std::string report = fmt::format("{}: {} of the module's {} tensors are taken{}",
                                         saved.path().string(), num_taken, own.size(), lines);
  if (num_taken == 0) {
    throw CheckpointError(report +
                          "\n  Give weights of this architecture, or leave --init_from out.");
  }
  return report;
}

StatePart optimizer_part(const torch::nn::Module& module, const torch::optim::Optimizer& optimizer,
                         const SegmentOf& segment_of) {
  const auto names = parameter_names(module, optimizer);
  const auto parameters = parameters_of(optimizer);
  const auto state = optimizer_state(optimizer);
  StatePart part;
  for (size_t i = 0; i < state.parameters.size(); ++i) {
    const auto segment = segment_of ? segment_of(parameters.at(i)) : std::nullopt;
    for (const auto& [key, tensor] : state.parameters[i]) {
      const std::string name = names.at(i) + "." + key;
      part.tensors.emplace_back(name, tensor);
      if (!segment || tensor.dim() == 0) {
        continue;
      }
      if (tensor.sizes() != torch::IntArrayRef(segment->count)) {
        throw UsageError(fmt::format(
            "the optimizer's state '{}' is {}, its parameter's segment on this rank has {} "
            "elements: it cannot be saved in parts. Keep a scalar or a number for each element.",
            name, c10::str(tensor.sizes()), segment->count));
      }
      part.segments.emplace(name, *segment);
    }
  }
  return part;
}

nlohmann::json optimizer_groups(const torch::optim::Optimizer& optimizer) {
  return optimizer_state(optimizer).groups;
}

void load_optimizer(const torch::nn::Module& module, torch::optim::Optimizer& optimizer,
                    const SavedTensors& saved, const nlohmann::json& groups,
                    const SegmentOf& segment_of) {
  const auto names = parameter_names(module, optimizer);
  const auto parameters = parameters_of(optimizer);
  OptimizerState state;
  state.groups = groups;
  state.parameters.resize(names.size());
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < names.size(); ++i) {
    index.emplace(names[i], i);
  }
  for (const auto& key : saved.names()) {
    const size_t dot = key.rfind('.');
    const auto found = index.find(key.substr(0, dot));
    if (dot == std::string::npos || found == index.end()) {
      throw CheckpointError(fmt::format(
          "{}: has optimizer state '{}', but the optimizer has no such parameter.\n  Use "
          "the configuration that the checkpoint was made with.",
          saved.path().string(), key));
    }
    const size_t i = found->second;
    const std::string name = key.substr(dot + 1);
    const auto segment = segment_of ? segment_of(parameters[i]) : std::nullopt;
    const bool has_no_dimensions = segment && segment->sizes.empty();  // the shape tells nothing
    const bool is_scalar =
        saved.sizes(key).empty() && (!has_no_dimensions || is_scalar_state(optimizer, name));
    state.parameters[i].emplace(name, own_part(saved, key, segment, is_scalar));
  }
  load_optimizer_state(optimizer, state);
}

}  // namespace trainer
