#include <trainer/checkpointed_blocks.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/activation_checkpointing.h>
#include <trainer/core/error.h>
#include <trainer/core/glob.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

CheckpointedBlocks* in_force = nullptr;

/// The first of them, sorted.
std::string list_of(std::vector<std::string> names) {
  constexpr size_t kMost = 20;
  std::sort(names.begin(), names.end());
  const size_t left_out = names.size() > kMost ? names.size() - kMost : 0;
  names.resize(names.size() - left_out);
  return fmt::format("{}{}", fmt::join(names, ", "),
                     left_out > 0 ? fmt::format(" and {} more", left_out) : "");
}

}  // namespace

CheckpointedBlocks::CheckpointedBlocks(const ActivationCheckpointing& choice,
                                       const torch::nn::Module& module)
    : choice_(choice), outer_(in_force) {
  std::vector<std::string> names;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    blocks_[item.value().get()].names.push_back(item.key());
    names.push_back(item.key());
  }
  for (const auto& pattern : choice_.patterns) {
    bool is_used = false;
    for (auto& [block, entry] : blocks_) {
      for (const auto& name : entry.names) {
        if (matches_glob(pattern, name)) {
          is_used = entry.is_chosen = true;
        }
      }
    }
    if (!is_used) {
      throw ConfigError(fmt::format(
          "trainer.activation_checkpointing: '{}' is the name of no module. There are: {}.",
          pattern, list_of(names)));
    }
  }
  in_force = this;
}

CheckpointedBlocks::~CheckpointedBlocks() { in_force = outer_; }

bool CheckpointedBlocks::contains(const torch::nn::Module* block) {
  const auto found = blocks_.find(block);
  if (found == blocks_.end()) {
    unnamed_is_called_ = true;
    return choice_.all;
  }
  found->second.is_called = true;
  return choice_.all || found->second.is_chosen;
}

std::vector<std::string> CheckpointedBlocks::called() const {
  std::vector<std::string> names;
  for (const auto& [block, entry] : blocks_) {
    if (entry.is_called) {
      names.insert(names.end(), entry.names.begin(), entry.names.end());
    }
  }
  return names;
}

void CheckpointedBlocks::tell_of_unused() {
  if (std::exchange(has_told_, true)) {
    return;
  }
  const auto names = called();
  if (choice_.all && names.empty() && !unnamed_is_called_) {
    log::warning(
        "trainer.activation_checkpointing: all has no effect, since the module calls no block "
        "through trainer::checkpointed(). Write x = trainer::checkpointed(block, x) for "
        "x = block->forward(x).");
  }
  for (const auto& pattern : choice_.patterns) {
    const auto is_match = [&](const auto& name) { return matches_glob(pattern, name); };
    if (std::none_of(names.begin(), names.end(), is_match)) {
      log::warning(fmt::format(
          "trainer.activation_checkpointing: '{}' has no effect, since no module of that name is "
          "called through trainer::checkpointed(). {}.",
          pattern, names.empty() ? "None is" : "These are: " + list_of(names)));
    }
  }
}

bool detail::is_checkpointed(const torch::nn::Module* block) {
  return in_force != nullptr && torch::GradMode::is_enabled() && in_force->contains(block);
}

}  // namespace trainer
