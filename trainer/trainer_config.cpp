#include <trainer/trainer_config.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/data/batch_source.h>
#include <trainer/world.h>

namespace trainer {

namespace {

std::string too_large(double fraction) {
  return fmt::format("a fraction above 1. Write {:.0f} for that many batches, or 1.0 for all.",
                     std::ceil(fraction));
}

}  // namespace

int64_t Accumulation::at(int64_t epoch) const {
  const auto next = by_epoch_.upper_bound(epoch);
  return next == by_epoch_.begin() ? 1 : std::prev(next)->second;
}

namespace config {

void Codec<Devices>::read(const Node& n, const std::string& path, Diagnostics& d, Devices& out) {
  if (n.is_scalar() && n.text() == "auto") {
    out = {};
    return;
  }
  Codec<int64_t>::read(n, path, d, out.count);
  if (out.count < 1) {
    d.add(n.mark, path, "is " + n.describe() + ": must be at least 1, or auto.");
  }
}

Node Codec<Devices>::write(const Devices& value) {
  return value.count == 0 ? Node::scalar("auto") : config::write(value.count);
}

void Codec<FastDevRun>::read(const Node& n, const std::string& path, Diagnostics& d,
                             FastDevRun& out) {
  const bool is_bool = n.is_scalar() && (n.text() == "true" || n.text() == "false");
  if (is_bool) {
    out = n.text() == "true";
    return;
  }
  Codec<int64_t>::read(n, path, d, out.batches);
  if (out.batches < 0) {
    d.add(n.mark, path, "is " + n.describe() + ": must be at least 0.");
  }
}

void Codec<Accumulation>::read(const Node& n, const std::string& path, Diagnostics& d,
                               Accumulation& out) {
  std::map<int64_t, int64_t> by_epoch;
  if (!n.is_map()) {
    Codec<int64_t>::read(n, path, d, by_epoch[0]);
  } else {
    for (const auto& entry : n.entries()) {
      int64_t epoch = 0;
      Node key = Node::scalar(entry.key);
      key.mark = entry.key_mark;
      Codec<int64_t>::read(key, path, d, epoch);
      Codec<int64_t>::read(entry.value, detail::join(path, entry.key), d, by_epoch[epoch]);
    }
  }
  for (const auto& [epoch, batches] : by_epoch) {
    if (!n.is_map() && batches < 1) {
      d.add(n.mark, path, "is " + n.describe() + ": must be at least 1.");
    } else if (epoch < 0 || batches < 1) {
      d.add(n.mark, path,
            fmt::format("is {} from epoch {} on: epochs count from 0, batches from 1.", batches,
                        epoch));
    }
  }
  out = Accumulation(std::move(by_epoch));
}

Node Codec<Accumulation>::write(const Accumulation& value) {
  const auto& by_epoch = value.by_epoch();
  if (by_epoch.size() == 1 && by_epoch.contains(0)) {
    return config::write(by_epoch.at(0));
  }
  Node node = Node::map();
  for (const auto& [epoch, batches] : by_epoch) {
    node.set(std::to_string(epoch), config::write(batches));
  }
  return node;
}

void Codec<ActivationCheckpointing>::read(const Node& n, const std::string& path, Diagnostics& d,
                                          ActivationCheckpointing& out) {
  out = {};
  if (n.is_scalar() && (n.text() == "none" || n.text() == "all")) {
    out.all = n.text() == "all";
  } else if (n.is_scalar()) {
    d.add(n.mark, path,
          fmt::format("is {}: write none, all, or a list of names of modules, as [blocks.*].",
                      n.describe()));
  } else {
    Codec<std::vector<std::string>>::read(n, path, d, out.patterns);
  }
}

Node Codec<ActivationCheckpointing>::write(const ActivationCheckpointing& value) {
  if (value.all || value.patterns.empty()) {
    return Node::scalar(value.all ? "all" : "none");
  }
  return config::write(value.patterns);
}

}  // namespace config

namespace rules {

constexpr const char* kNotPositive =
    "must be greater than 0. Set limit_val_batches=0 to validate never.";

std::string FractionOrCount::violation(double fraction) const {
  return fraction > 1.0 ? too_large(fraction) : "";
}

std::string Interval::violation(int64_t batches) const { return batches > 0 ? "" : kNotPositive; }

std::string Interval::violation(double fraction) const {
  return fraction <= 0 ? kNotPositive : FractionOrCount().violation(fraction);
}

std::string Interval::violation(const Duration& duration) const {
  if (duration.unit == Duration::Unit::kEpochs) {
    return "write a time, steps, batches or samples; epochs stand in check_val_every_n_epoch.";
  }
  return duration.count > 0 ? "" : kNotPositive;
}

std::string Time::violation(const Duration& duration) const {
  return duration.is_time() ? "" : "is no time. Write it as max_duration.";
}

}  // namespace rules

void TrainerConfig::validate() const {
  const auto* fraction = std::get_if<double>(&val_check_interval);
  if (fraction != nullptr && !check_val_every_n_epoch) {
    throw ConfigError(fmt::format(
        "val_check_interval is {}, a fraction of an epoch, but check_val_every_n_epoch is null, "
        "which counts across epochs. Write a number of batches or a duration.",
        *fraction));
  }
}

void TrainerConfig::check_world(const World& world) const {
  const int64_t wanted = devices.count;
  const bool is_alone = world.launcher().empty();
  const int64_t size = std::max<int64_t>(wanted, 1) * num_nodes;
  if (is_alone && size > 1) {
    throw ConfigError(fmt::format(
        "trainer.devices is {} and trainer.num_nodes is {}, but this process was started alone. "
        "Start it with mpirun -n {}{}.",
        wanted == 0 ? "auto" : std::to_string(wanted), num_nodes, size,
        num_nodes == 1 ? "" : fmt::format(" or srun --mpi=pmix -N {} -n {}", num_nodes, size)));
  }
  if (wanted != 0 && wanted != world.local_size()) {
    throw ConfigError(fmt::format(
        "trainer.devices is {}, but {} has started {} {} on node {} of {}. Set devices to auto, or "
        "start {} there.",
        wanted, world.launcher(), world.local_size(),
        world.local_size() == 1 ? "process" : "processes", world.node_rank() + 1, world.num_nodes(),
        wanted));
  }
  if (num_nodes != 1 && num_nodes != world.num_nodes()) {
    throw ConfigError(fmt::format(
        "trainer.num_nodes is {}, but {} has started processes on {} {}. Leave it out, or start "
        "them on {}.",
        num_nodes, world.launcher(), world.num_nodes(), world.num_nodes() == 1 ? "node" : "nodes",
        num_nodes));
  }
}

TrainerConfig TrainerConfig::with_modes_applied() const {
  TrainerConfig config = *this;
  if (config.gradient_clip_val == 0.0) {
    config.gradient_clip_val.reset();
  }
  if (config.overfits()) {
    config.limit_train_batches = config.limit_val_batches = config.overfit_batches;
  }
  if (const int64_t batches = fast_dev_run.batches; batches > 0) {
    config.limit_train_batches = config.limit_val_batches = batches;
    config.limit_test_batches = config.limit_predict_batches = batches;
    config.max_epochs = 1;
    config.max_steps = batches;
    config.val_check_interval = 1.0;
    config.check_val_every_n_epoch = 1;
    config.num_sanity_val_steps = 0;
    config.logger = {};
    config.enable_checkpointing = false;
  }
  if (barebones) {
    config.logger = {};
    config.enable_checkpointing = config.enable_progress_bar = config.enable_model_summary = false;
    config.num_sanity_val_steps = 0;
    config.log_every_n_steps = 0;
  }
  return config;
}

int64_t limited_batches(const BatchLimit& limit, int64_t num_batches, const char* name) {
  const bool is_known = num_batches != kUnknownSize;
  if (const auto* count = std::get_if<int64_t>(&limit)) {
    return is_known ? std::min(*count, num_batches) : *count;
  }
  const double fraction = std::get<double>(limit);
  if (!is_known) {
    if (fraction != 0.0 && fraction != 1.0) {
      throw ConfigError(fmt::format(
          "trainer.{}: {} of a stream, whose number of batches nobody knows. Write a number of "
          "batches, or 1.0 for all.",
          name, fraction));
    }
    return fraction == 0.0 ? 0 : kAllBatches;
  }
  const auto batches = static_cast<int64_t>(static_cast<double>(num_batches) * fraction);
  if (batches == 0 && fraction > 0 && num_batches > 0) {
    throw ConfigError(fmt::format(
        "trainer.{}: {} of {} batches is less than one. Write 1 for one batch, or a larger "
        "fraction.",
        name, fraction, num_batches));
  }
  return batches;
}

}  // namespace trainer
