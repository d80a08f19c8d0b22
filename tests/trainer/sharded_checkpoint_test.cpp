// Checkpoints of which every rank writes its part, under real mpirun.

#include <gtest/gtest.h>

#include <strategies/fsdp.h>
#include <trainer/checkpoint/checkpoint.h>
#include <trainer/world.h>

#include <tests/support/file_size_limit.h>
#include <tests/support/peak_memory.h>
#include <tests/support/process.h>
#include <tests/support/shared_dir.h>
#include <tests/support/thrown.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

int rank() { return world().rank(); }
int size() { return world().size(); }

/// Segments of odd sizes, buffers, a shared parameter, one without gradients, one without elements,
/// one without dimensions.
class Mixed : public ToyModule {
 public:
  Mixed() {
    register_parameter("also_head", head_->weight);
    register_parameter("nothing", torch::zeros({0, 4}));
    register_parameter("never", torch::rand({3}));
    scale_ = register_parameter("scale", torch::tensor(1.5));
    register_buffer("flags", torch::tensor({true, false, true}));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head_(layers_->forward(x)) * scale_; }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    return torch::nn::functional::cross_entropy(forward(batch[0]), batch[1]);
  }
  void validation_step(const Batch& batch, int64_t) override {
    log("val_loss", torch::nn::functional::cross_entropy(forward(batch[0]), batch[1]));
  }
  void test_step(const Batch& batch, int64_t) override {
    log("test_loss", torch::nn::functional::cross_entropy(forward(batch[0]), batch[1]));
  }
  torch::Tensor predict_step(const Batch& batch, int64_t) override { return forward(batch[0]); }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::AdamW>(distinct_parameters(),
                                          optim::AdamWOptions(0.01).eps(1e-4));
  }

 protected:
  std::vector<torch::Tensor> distinct_parameters() const {
    std::vector<torch::Tensor> distinct;
    for (const auto& item : named_parameters()) {
      if (item.key() != "head.weight") {
        distinct.push_back(item.value());
      }
    }
    return distinct;
  }

 private:
  torch::Tensor scale_;
  torch::nn::Linear head_ = register_module("head", torch::nn::Linear(13, 2));
  torch::nn::Sequential layers_ = register_module(
      "layers", torch::nn::Sequential(torch::nn::Linear(6, 29), torch::nn::BatchNorm1d(29),
                                      torch::nn::Tanh(), torch::nn::Linear(29, 13)));
};

// Sharded also on one rank.
Spec<Strategy> sharded() { return use<FSDP>({.intercept = "dispatch_key"}); }
Spec<Strategy> full() {
  return use<FSDP>({.intercept = "dispatch_key", .state_dict_type = "full"});
}

/// What ranks that hold everything use.
Spec<Strategy> unsharded() { return "auto"; }

/// Saves at the beginning of a fit, which after a resume is the state that was resumed from.
class SaveAtStart : public Callback {
 public:
  struct Init {
    std::string path = "unused";
    static constexpr auto fields() { return std::tuple{config::field<&Init::path>("Where to.")}; }
  };
  explicit SaveAtStart(Init init) : init_(std::move(init)) {}
  void on_train_start(Trainer& trainer, Module&) override { trainer.save_checkpoint(init_.path); }

 private:
  Init init_;
};

struct Outcome {
  torch::Tensor weights;
  fs::Path last;
};

/// Trains up to so many steps; the checkpoint is below `root`.
Outcome fit(const Spec<Strategy>& strategy, const fs::Path& root, int64_t max_steps,
            const Trainer::CkptPath& ckpt_path = {}, const std::string& saved_at_start = "") {
  seed_everything(5);
  Mixed module;
  ToyData data;
  TrainerConfig config = quiet();
  config.strategy = strategy;
  config.enable_checkpointing = true;
  config.default_root_dir = root.string();
  config.max_steps = max_steps;
  if (!saved_at_start.empty()) {
    config.callbacks = {use<SaveAtStart>({.path = saved_at_start})};
  }
  Trainer trainer(config);
  trainer.fit(module, data, ckpt_path);
  world().barrier();
  const auto last = trainer.run_directory()->last();
  return {flat_weights(module), last.value_or("")};
}

std::map<std::string, std::string> files_of(const fs::Path& checkpoint) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(checkpoint)) {
    files[entry.path().filename().string()] = read_file(entry.path());
  }
  return files;
}

/// The bytes of a file with the whole tensors. Each rank makes its own.
std::string whole_bytes(const fs::Path& checkpoint, const std::string& name) {
  const TempDir dir;
  CheckpointReader(checkpoint).saved(name).save_whole(dir / "whole");
  return read_file(dir / "whole");
}

void expect_same_state(const fs::Path& actual, const fs::Path& expected) {
  for (const char* name : {"model", "optimizer"}) {
    EXPECT_TRUE(whole_bytes(actual, name) == whole_bytes(expected, name)) << name;
  }
}

TEST(ShardedCheckpoint, HasAPartOfEachRank) {
  const SharedDir dir;
  const auto last = fit(sharded(), dir.path(), 3).last;
  const auto files = files_of(last);
  const CheckpointReader reader(last);
  const auto whole = reader.saved("model");
  std::set<std::string> expected = {"manifest.json", "trainer_state.json", "config.yaml"};
  for (int r = 0; r < size(); ++r) {
    expected.insert({part_file("model", r), part_file("optimizer", r)});
    int64_t elements = 0;
    const auto part = reader.tensors(part_file("model", r));
    for (const auto& name : part.names()) {
      elements += part.tensor(name).numel();
      EXPECT_TRUE(r == 0 || part.tensor(name).dim() == 1) << name;
    }
    EXPECT_LT(elements, 900 / size() + 150) << "rank " << r;
  }
  std::set<std::string> found;
  for (const auto& [name, content] : files) {
    found.insert(name);
  }
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(whole.contains("also_head"));
  EXPECT_FALSE(whole.contains("head.weight"));
  EXPECT_EQ(whole.sizes("nothing"), (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(whole.sizes("scale"), std::vector<int64_t>());
  EXPECT_EQ(reader.saved("optimizer").sizes("scale.exp_avg"), std::vector<int64_t>());
  EXPECT_EQ(reader.about().at("world_size"), size());
}

TEST(ShardedCheckpoint, IsTheStateOfAWholeOneBitForBit) {
  const SharedDir dir;
  const auto trained = fit(sharded(), dir / "sharded", 7);
  const auto gathered = fit(full(), dir / "full", 7);
  EXPECT_TRUE(torch::equal(trained.weights, gathered.weights));
  EXPECT_TRUE(std::filesystem::exists(gathered.last / "model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(gathered.last / part_file("model", 0)));
  EXPECT_FALSE(std::filesystem::exists(gathered.last / part_file("optimizer", 1)));
  expect_same_state(trained.last, gathered.last);
  EXPECT_TRUE(whole_bytes(trained.last, "model") == read_file(gathered.last / "model.safetensors"));
  // By whom it is resumed makes no difference to what is resumed.
  int i = 0;
  for (const auto& from : {trained.last, gathered.last}) {
    for (const auto& strategy : {sharded(), full(), unsharded()}) {
      const auto copy = dir / ("copy" + std::to_string(i) + ".ckpt");
      const auto again =
          fit(strategy, dir / ("again" + std::to_string(i++)), 7, from.string(), copy.string());
      EXPECT_TRUE(torch::equal(again.weights, trained.weights)) << i;
      expect_same_state(copy, trained.last);
    }
  }
}

TEST(ShardedCheckpoint, ResumeEqualsNeverStoppedBitForBit) {
  const SharedDir dir;
  const auto expected = fit(sharded(), dir / "whole", 20).weights;
  for (const int64_t stop : {3, 13}) {
    for (const bool is_full : {false, true}) {
      const auto stopped = fit(is_full ? full() : sharded(), dir / "stopped", stop).last;
      const auto resumed = fit(sharded(), dir / "unused", 20, stopped.string());
      EXPECT_TRUE(torch::equal(resumed.weights, expected)) << stop << is_full;
    }
  }
}

/// Saves the same state twice.
class SaveTwice : public Callback {
 public:
  explicit SaveTwice(fs::Path dir) : dir_(std::move(dir)) {}
  void on_train_end(Trainer& trainer, Module&) override {
    trainer.save_checkpoint(dir_ / "a.ckpt");
    trainer.save_checkpoint(dir_ / "b.ckpt");
    trainer.save_checkpoint(dir_ / "b.ckpt");  // over the old one
  }

 private:
  fs::Path dir_;
};

/// A module with callbacks of its own.
template <class M>
class With : public M {
 public:
  explicit With(std::shared_ptr<Callback> callback) : callback_(std::move(callback)) {}
  std::vector<std::shared_ptr<Callback>> configure_callbacks() override { return {callback_}; }

 private:
  std::shared_ptr<Callback> callback_;
};

void fit_with(std::shared_ptr<Callback> callback, const Spec<Strategy>& strategy = sharded()) {
  seed_everything(5);
  With<Mixed> module(std::move(callback));
  ToyData data;
  TrainerConfig config = quiet();
  config.strategy = strategy;
  config.max_steps = 3;
  Trainer(config).fit(module, data);
}

TEST(ShardedCheckpoint, OfTheSameStateIsTheSameBytes) {
  const SharedDir dir;
  fit_with(std::make_shared<SaveTwice>(dir.path()));
  world().barrier();
  EXPECT_TRUE(files_of(dir / "a.ckpt") == files_of(dir / "b.ckpt"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 2);
}

/// The Trainer's evaluation of a checkpoint against that of the module which was saved.
TEST(ShardedCheckpoint, IsEvaluatedAndLoadedAndBegunFrom) {
  const SharedDir dir;
  seed_everything(5);
  Mixed trained;
  ToyData data;
  TrainerConfig config = quiet();
  config.strategy = sharded();
  config.enable_checkpointing = true;
  config.default_root_dir = dir.path().string();
  config.max_steps = 9;
  Trainer trainer(config);
  trainer.fit(trained, data);
  world().barrier();
  const std::string last = trainer.run_directory()->last()->string();
  const auto expected = trainer.test(trained, data);
  const auto predictions = torch::cat(trainer.predict(trained, data));
  config.enable_checkpointing = false;
  for (const auto& strategy : {sharded(), unsharded()}) {
    config.strategy = strategy;
    Mixed fresh;
    EXPECT_EQ(Trainer(config).test(fresh, data, last), expected);
    Mixed validated;
    EXPECT_EQ(Trainer(config).validate(validated, data, last).size(), 1U);
    Mixed predicting;
    EXPECT_TRUE(
        torch::equal(torch::cat(Trainer(config).predict(predicting, data, last)), predictions));
    Mixed begun;
    Trainer beginning(config);
    beginning.set_init_from(last);
    EXPECT_EQ(beginning.test(begun, data), expected);
  }
  const auto loaded = load_from_checkpoint<Mixed>(last);
  EXPECT_TRUE(torch::equal(flat_weights(*loaded), flat_weights(trained)));
  EXPECT_TRUE(torch::equal(loaded->named_buffers()["layers.1.running_var"],
                           trained.named_buffers()["layers.1.running_var"]));
}

TEST(ShardedCheckpoint, OfWhichAPartIsMissingOrDamagedIsRefused) {
  const SharedDir dir;
  const auto last = fit(sharded(), dir.path(), 3).last;
  const auto part = last / part_file("optimizer", size() - 1);
  const std::string content = read_file(part);
  world().barrier();
  const auto refused = [&](const std::string& what) {
    world().barrier();
    EXPECT_NE(thrown<CheckpointError>([&] {
                CheckpointReader reader(last);
              }).find(part.filename().string() + what),
              std::string::npos);
    world().barrier();
  };
  const auto change = [&](const std::function<void()>& action) {
    if (rank() == 0) {
      action();
    }
  };
  change([&] { std::filesystem::remove(part); });
  refused(" is missing");
  change([&] { write_file(part, content.substr(1)); });
  refused(" is " + std::to_string(content.size() - 1) + " bytes");
  change([&] { write_file(part, content.substr(1) + "x"); });
  refused(" does not have the content");
}

/// Saves one checkpoint, and a second over it for which one rank has no room.
class SaveWithoutRoom : public Callback {
 public:
  SaveWithoutRoom(fs::Path path, int full_rank, rlim_t room)
      : path_(std::move(path)), full_rank_(full_rank), room_(room) {}
  void on_train_start(Trainer& trainer, Module&) override { trainer.save_checkpoint(path_); }
  void on_train_end(Trainer& trainer, Module&) override {
    const FileSizeLimit limit(rank() == full_rank_ ? room_ : RLIM_INFINITY);
    error = thrown<IoError>([&] { trainer.save_checkpoint(path_); });
  }
  std::string error;

 private:
  fs::Path path_;
  int full_rank_;
  rlim_t room_;
};

TEST(ShardedCheckpoint, ThatARankCannotWriteIsAnErrorOfAllAndTheOldOneStays) {
  const SharedDir dir;
  const auto path = dir / "a.ckpt";
  // Within the header, and within the data.
  for (const auto& [strategy, full_rank, room] :
       {std::tuple(sharded(), size() - 1, 8), std::tuple(sharded(), size() - 1, 1000),
        std::tuple(sharded(), 0, 0), std::tuple(full(), 0, 8), std::tuple(full(), 0, 2000)}) {
    const auto callback =
        std::make_shared<SaveWithoutRoom>(path, full_rank, static_cast<rlim_t>(room));
    fit_with(callback, strategy);
    const std::string prefix =
        path.string() + ": this checkpoint is not saved. rank " + std::to_string(full_rank) + "/";
    EXPECT_TRUE(callback->error.starts_with(prefix)) << callback->error;
    EXPECT_NE(callback->error.find(".safetensors: cannot write: File too large"), std::string::npos)
        << callback->error;
    EXPECT_EQ(CheckpointReader(path).about().at("global_step"), 0);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
    world().barrier();
  }
}

/// Saves to a path that is another folder on each rank, as on nodes that share no disk.
class SaveApart : public Callback {
 public:
  explicit SaveApart(bool succeeds) : succeeds_(succeeds) {}
  void on_train_end(Trainer& trainer, Module&) override {
    const TempDir dir;
    const WorkingDirectory here(dir.path());
    const auto save = [&] { trainer.save_checkpoint("/proc/self/cwd/a.ckpt"); };
    if (succeeds_) {
      save();
      EXPECT_EQ(std::filesystem::exists(dir / "a.ckpt"), rank() == 0);
      return;
    }
    const auto error = thrown<IoError>(save);
    EXPECT_TRUE(error.starts_with("/proc/self/cwd/a.ckpt: this checkpoint is not saved. rank 1/" +
                                  std::to_string(size())))
        << error;
    EXPECT_NE(error.find(": rank 0 has made this folder, this rank does not see it. "),
              std::string::npos)
        << error;
    EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  }

 private:
  bool succeeds_;
};

TEST(ShardedCheckpoint, OnDisksThatAreNotSharedIsAnErrorThatNamesTheRank) {
  fit_with(std::make_shared<SaveApart>(/*succeeds=*/size() == 1));
  fit_with(std::make_shared<SaveApart>(/*succeeds=*/true), full());
}

/// Saves when the fit ends, tensors that not every way of saving may be able to write.
class SavesAtEnd : public Callback {
 public:
  using Act = std::function<void(Module&, const std::function<void()>& save)>;
  SavesAtEnd(fs::Path path, Act act) : path_(std::move(path)), act_(std::move(act)) {}
  void on_train_end(Trainer& trainer, Module& module) override {
    act_(module, [&] { trainer.save_checkpoint(path_); });
  }

 private:
  fs::Path path_;
  Act act_;
};

TEST(ShardedCheckpoint, OfATensorThatCannotBeSavedIsTheSameErrorAsInOneProcess) {
  const SharedDir dir;
  const auto path = dir / "a.ckpt";
  const auto sparse = torch::eye(3).to_sparse();
  const auto complex = torch::zeros({3}, torch::kComplexDouble);
  for (const auto& [tensor, what] :
       {std::pair(sparse, "is undefined, sparse, nested or on the meta device."),
        std::pair(complex, "has dtype ComplexDouble, which safetensors cannot hold.")}) {
    for (const auto& strategy : {sharded(), full()}) {
      const auto act = [tensor = tensor, what = what, &path](Module& module, const auto& save) {
        module.register_buffer("odd", tensor);
        const auto error = thrown<UsageError>(save);
        EXPECT_TRUE(error.starts_with(path.string() + ": this checkpoint is not saved. rank 0/"))
            << error;
        EXPECT_NE(error.find(what), std::string::npos) << error;
      };
      fit_with(std::make_shared<SavesAtEnd>(path, act), strategy);
      EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
    }
  }
}

TEST(ShardedCheckpoint, HasTheValuesOfAConjugatedView) {
  const SharedDir dir;
  const auto value = torch::complex(torch::rand({3}), torch::rand({3}));
  for (const auto& strategy : {sharded(), full()}) {
    fit_with(std::make_shared<SavesAtEnd>(dir / "a.ckpt",
                                          [&](Module& module, const auto& save) {
                                            module.register_buffer("odd", value.conj());
                                            save();
                                          }),
             strategy);
    world().barrier();
    const auto saved = CheckpointReader(dir / "a.ckpt").saved("model").tensor("odd");
    EXPECT_TRUE(rank() != 0 || torch::equal(saved, value.conj().resolve_conj()));
    world().barrier();
  }
}

class FullDisk : public Logger {
 public:
  void setup(const fs::Path&) override {}
  void log_metrics(const Metrics&, int64_t) override {}
  void save() override {
    if (is_full) {
      throw IoError("rows: cannot write: no space");
    }
  }
  static inline bool is_full = false;
};

/// A save that fails and is caught, in the midst of a fit.
class FailsToSave : public Callback {
 public:
  explicit FailsToSave(fs::Path path) : path_(std::move(path)) {}
  void on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&, const Batch&,
                          int64_t index) override {
    if (index == 1) {
      const FileSizeLimit limit(rank() == 0 ? 8 : RLIM_INFINITY);
      (void)thrown<IoError>([&] { trainer.save_checkpoint(path_); });
    } else if (index == 2) {
      FullDisk::is_full = true;
      const auto error = thrown<IoError>([&] { trainer.save_checkpoint(path_); });
      FullDisk::is_full = false;
      EXPECT_NE(error.find("rows: cannot write: no space"), std::string::npos) << error;
    }
  }

 private:
  fs::Path path_;
};

/// Its optimizer has other parameters for evaluation, and for what is saved, than for training.
class ScheduleFree : public Mixed {
 public:
  explicit ScheduleFree(std::shared_ptr<Callback> callback) : callback_(std::move(callback)) {}
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::ScheduleFreeAdamW>(distinct_parameters());
  }
  std::vector<std::shared_ptr<Callback>> configure_callbacks() override {
    return callback_ != nullptr ? std::vector{callback_} : std::vector<std::shared_ptr<Callback>>();
  }

 private:
  std::shared_ptr<Callback> callback_;
};

TEST(ShardedCheckpoint, ThatIsNotSavedLeavesTheParametersOfTraining) {
  const SharedDir dir;
  for (const auto& strategy : {sharded(), full()}) {
    const auto weights = [&](std::shared_ptr<Callback> callback) {
      seed_everything(5);
      ScheduleFree module(std::move(callback));
      ToyData data;
      TrainerConfig config = quiet();
      config.strategy = strategy;
      config.default_root_dir = dir.path().string();
      config.max_steps = 6;
      config.logger = {use<FullDisk>()};
      Trainer(config).fit(module, data);
      return flat_weights(module);
    };
    const auto expected = weights(nullptr);
    EXPECT_TRUE(torch::equal(weights(std::make_shared<FailsToSave>(dir / "a.ckpt")), expected));
    EXPECT_FALSE(std::filesystem::exists(dir / "a.ckpt"));
  }
}

class Large : public Module {
 public:
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    const auto x = torch::constant_pad_nd(batch[0], {0, 2042});
    return layers_->forward(x).square().mean();
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<optim::AdamW>(parameters());
  }

 private:
  torch::nn::Sequential layers_ = register_module(
      "layers", torch::nn::Sequential(torch::nn::Linear(2048, 2048), torch::nn::Linear(2048, 2048),
                                      torch::nn::Linear(2048, 2048)));
};

/// How much the memory of this process grows while it saves.
class MeasuresSaving : public Callback {
 public:
  explicit MeasuresSaving(fs::Path path) : path_(std::move(path)) {}
  void on_train_end(Trainer& trainer, Module&) override {
    const ResidentGrowth memory;
    trainer.save_checkpoint(path_);
    growth = memory.bytes();
  }
  int64_t growth = 0;

 private:
  fs::Path path_;
};

TEST(ShardedCheckpoint, IsSavedWithoutTheWholeInAnyMemory) {
  const SharedDir dir;
  for (const auto& strategy : {sharded(), full()}) {
    const auto measure = std::make_shared<MeasuresSaving>(dir / "a.ckpt");
    With<Large> module(measure);
    ToyData data;
    TrainerConfig config = quiet();
    config.strategy = strategy;
    config.max_steps = 1;
    Trainer(config).fit(module, data);
    // A few pieces of it; a parameter is 16 MiB, all together they are 48, and with AdamW's 144.
    EXPECT_LT(measure->growth, 48 << 20) << "rank " << rank();
  }
}

/// Of 96 MiB, without memory until it is sharded.
class LateLarge : public Module {
 public:
  static constexpr int64_t kLayers = 24, kLayerBytes = 4 << 20;
  void configure_model() override {
    for (int64_t i = 0; i < kLayers; ++i) {
      layers_->push_back(torch::nn::Linear(torch::nn::LinearOptions(1024, 1024).bias(false)));
    }
  }
  torch::Tensor training_step(const Batch& batch, int64_t) override {
    return layers_->forward(torch::constant_pad_nd(batch[0], {0, 1018})).square().mean();
  }
  OptimizerConfig configure_optimizers() override {
    return std::make_unique<torch::optim::SGD>(parameters(), 0.1);
  }
  void on_load_checkpoint(const nlohmann::json&) override { memory_.emplace(); }
  void on_fit_start() override { growth = memory_ ? memory_->bytes() : 0; }
  int64_t growth = 0;  // from one to the other

 private:
  std::optional<ResidentGrowth> memory_;
  torch::nn::Sequential layers_ = register_module("layers", torch::nn::Sequential());
};

TEST(ShardedCheckpoint, IsResumedWithoutTheWholeInAnyMemory) {
  const SharedDir dir;
  TrainerConfig config = quiet();
  config.strategy = use<FSDP>({.intercept = "dispatch_key", .deferred_construction = true});
  config.max_steps = 1;
  ToyData data;
  With<LateLarge> saving(
      std::make_shared<SavesAtEnd>(dir / "a.ckpt", [](Module&, const auto& save) { save(); }));
  Trainer(config).fit(saving, data);
  world().barrier();
  LateLarge resumed;
  Trainer(config).fit(resumed, data, (dir / "a.ckpt").string());
  EXPECT_GT(resumed.growth, 0);
  // This rank's part of it, once in memory and once in the mapped file, and a few layers.
  constexpr int64_t kWhole = LateLarge::kLayers * LateLarge::kLayerBytes;
  EXPECT_LT(resumed.growth, 2 * kWhole / size() + 6 * LateLarge::kLayerBytes) << "rank " << rank();
  world().barrier();
}

}  // namespace
}  // namespace trainer::test
