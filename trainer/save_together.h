#pragma once
// How ranks that hold segments of the parameters, and of what optimizers keep of them, save those.

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/checkpoint/module_state.h>
#include <trainer/strategy.h>

namespace trainer {

/// "model", "optimizer" and so on, with this rank's part of it.
struct NamedPart {
  std::string name;
  StatePart state;
};

/// Calls `action` on every rank. Where it throws on one, every rank throws an error of that kind
/// (IoError, DataError, or UsageError for any other) that is OnEveryRank, names the rank, and says
/// that `path` is not saved; a CommError goes through. The action must not need other ranks.
/// Collective: yes.
void on_every_rank(const fs::Path& path, const std::function<void()>& action);

/// Writes a checkpoint to `path`: every rank its parts, or where the sharding wants whole tensors
/// rank 0 alone, to which the others send theirs piece by piece. No rank ever has all of the
/// tensors, or a whole large one. Rank 0 adds other files by `add_rest` and puts the folder in
/// place when all is on the disk. Where that fails on any rank every rank throws as
/// on_every_rank(), and what was at `path` stays. Collective: yes. Syncs: yes.
void save_together(const fs::Path& path, const std::vector<NamedPart>& parts,
                   const std::function<void(CheckpointPart&)>& add_rest,
                   const nlohmann::json& about, Strategy& strategy, const Sharding& sharding);

}  // namespace trainer
