#include <trainer/activation_checkpointing.h>

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include <ATen/Context.h>
#include <ATen/SequenceNumber.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/generator_state.h>

namespace trainer::detail {
namespace {

namespace autograd = torch::autograd;

using NodePointer = decltype(autograd::Edge::function);

/// An intrusive pointer since LibTorch 2.12 or so, a shared one before.
template <class T, class... Args>
NodePointer make_node(Args&&... args) {
  if constexpr (std::is_base_of_v<c10::intrusive_ptr_target, T>) {
    return c10::make_intrusive<T>(std::forward<Args>(args)...);
  } else {
    return std::make_shared<T>(std::forward<Args>(args)...);
  }
}

/// Of the default generators that a block may draw from: those of the devices where its tensors
/// lie.
std::vector<GeneratorState> random_state(const torch::nn::Module* block,
                                         const std::vector<torch::Tensor>& inputs) {
  std::vector<GeneratorState> states;
  const auto add = [&](torch::Device device) {
    const auto& generator = at::globalContext().defaultGenerator(device);
    const auto is_same = [&](const auto& state) { return state.generator() == generator; };
    if (std::none_of(states.begin(), states.end(), is_same)) {
      states.emplace_back(generator);
    }
  };
  const auto add_devices_of = [&](const std::vector<torch::Tensor>& tensors) {
    for (const auto& tensor : tensors) {
      if (tensor.defined() && tensor.is_cuda()) {
        add(tensor.device());
      }
    }
  };
  add(torch::kCPU);
  add_devices_of(inputs);
  if (block != nullptr) {
    add_devices_of(block->parameters());
  }
  return states;
}

/// Autocast as it is where this is made. Its cache is not used: a weight that was cast in an
/// earlier block would be part of that one's graph.
class AutocastState {
 public:
  AutocastState() {
    for (size_t i = 0; i < kDevices.size(); ++i) {
      enabled_[i] = at::autocast::is_autocast_enabled(kDevices[i]);
      dtypes_[i] = at::autocast::get_autocast_dtype(kDevices[i]);
    }
  }
  void restore() const {
    for (size_t i = 0; i < kDevices.size(); ++i) {
      at::autocast::set_autocast_enabled(kDevices[i], enabled_[i]);
      at::autocast::set_autocast_dtype(kDevices[i], dtypes_[i]);
    }
  }

 private:
  static constexpr std::array<at::DeviceType, 2> kDevices = {at::kCPU, at::kCUDA};
  std::array<bool, 2> enabled_ = {};
  std::array<at::ScalarType, 2> dtypes_ = {};
};

class WithoutAutocastCache {
 public:
  WithoutAutocastCache() { at::autocast::set_autocast_cache_enabled(false); }
  WithoutAutocastCache(const WithoutAutocastCache&) = delete;
  WithoutAutocastCache& operator=(const WithoutAutocastCache&) = delete;
  ~WithoutAutocastCache() { at::autocast::set_autocast_cache_enabled(was_enabled_); }

 private:
  const bool was_enabled_ = at::autocast::is_autocast_cache_enabled();
};

/// For the second run, everything as it was in the first.
class AsBefore {
 public:
  AsBefore(const std::vector<GeneratorState>& random, const AutocastState& autocast)
      : draws_again_(random) {
    autocast.restore();
  }
  AsBefore(const AsBefore&) = delete;
  AsBefore& operator=(const AsBefore&) = delete;
  ~AsBefore() { autocast_now_.restore(); }

 private:
  const DrawsAgain draws_again_;
  const AutocastState autocast_now_;
  const WithoutAutocastCache without_cache_;
  const torch::AutoGradMode grad_mode_{true};
};

/// Tensors that must not be written to until the backward pass.
class Inputs {
 public:
  explicit Inputs(std::vector<torch::Tensor> tensors) : tensors_(std::move(tensors)) {
    for (const auto& tensor : tensors_) {
      versions_.push_back(version_of(tensor));
      if (tensor.requires_grad()) {
        (void)tensor.grad_fn();  // a view's is made when it is asked for: not within the block
      }
    }
  }
  const std::vector<torch::Tensor>& tensors() const { return tensors_; }
  void check_unchanged() const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (version_of(tensors_[i]) != versions_[i]) {
        throw UsageError(fmt::format(
            "checkpointed(): input {} of the block, {} {}, was written to in place by the block or "
            "after it, and the block is to run on it again. Write to a copy (x = x + y instead of "
            "x += y, ReLU without inplace), or choose other blocks in "
            "trainer.activation_checkpointing.",
            i, c10::str(tensors_[i].sizes()), c10::toString(tensors_[i].scalar_type())));
      }
    }
  }

 private:
  static uint32_t version_of(const torch::Tensor& tensor) {
    return tensor.defined() && !tensor.is_inference()
               ? autograd::impl::version_counter(tensor).current_version()
               : 0;
  }

  std::vector<torch::Tensor> tensors_;
  std::vector<uint32_t> versions_;
};

[[noreturn]] void throw_other_run() {
  throw UsageError(
      "checkpointed(): the block computed something else when it was run again in the backward "
      "pass. What it does must depend on its inputs and LibTorch's random numbers alone.");
}

/// Knows the nodes that this thread makes from now on.
class Since {
 public:
  bool made(const autograd::Node& node) const {
    constexpr uint64_t kOfLeaf = UINT64_MAX;
    return node.thread_id() == thread_ && node.sequence_nr() >= begin_ &&
           node.sequence_nr() != kOfLeaf;
  }

 private:
  uint64_t begin_ = at::sequence_number::peek();
  uint64_t thread_ = at::RecordFunction::currentThreadId();
};

/// Calls `action` with each edge that leaves the graph made since: to the gradients of the block's
/// inputs and of whatever else it used.
template <class Action>
void for_each_edge_out(autograd::edge_list& roots, const Since& since, const Action& action) {
  std::vector<autograd::edge_list*> open = {&roots};
  std::unordered_set<const autograd::Node*> visited;
  while (!open.empty()) {
    autograd::edge_list& edges = *open.back();
    open.pop_back();
    for (auto& edge : edges) {
      if (edge.is_valid() && !since.made(*edge.function)) {
        action(edge);
      } else if (edge.is_valid() && visited.insert(edge.function.get()).second) {
        open.push_back(&edge.function->next_edges());
      }
    }
  }
}

autograd::edge_list edges_out_of(autograd::edge_list roots, const Since& since) {
  autograd::edge_list found;
  std::unordered_set<autograd::Edge> known;
  for_each_edge_out(roots, since, [&](const autograd::Edge& edge) {
    if (known.insert(edge).second) {
      found.push_back(edge);
    }
  });
  return found;
}

/// While it lives, the edges out of the second run's graph end at nodes of its own: the engine,
/// which is asked for the gradients there, does not go on into what lies before the block.
class Cut {
 public:
  /// Throws UsageError where the graph has an edge out that is none of `expected`.
  Cut(autograd::edge_list& roots, const Since& since, const autograd::edge_list& expected) {
    std::unordered_map<autograd::Edge, size_t> places;
    for (const auto& edge : expected) {
      places.emplace(edge, ends_.size());
      ends_.emplace_back(make_node<End>(edge.function->input_metadata(edge.input_nr)), 0);
    }
    for_each_edge_out(roots, since, [&](autograd::Edge& edge) {
      const auto place = places.find(edge);
      if (place == places.end()) {
        throw_other_run();
      }
      changed_.emplace_back(&edge, edge);
      edge = ends_[place->second];
    });
  }
  Cut(const Cut&) = delete;
  Cut& operator=(const Cut&) = delete;
  ~Cut() {
    for (const auto& [edge, before] : changed_) {
      *edge = before;  // gradients of gradients go there
    }
  }
  /// One for each of `expected`.
  const autograd::edge_list& ends() const { return ends_; }

 private:
  struct End : autograd::Node {
    explicit End(const autograd::InputMetadata& form) { input_metadata_.emplace_back(form); }
    autograd::variable_list apply(autograd::variable_list&& gradients) override {
      return std::move(gradients);
    }
  };

  autograd::edge_list ends_;
  std::vector<std::pair<autograd::Edge*, autograd::Edge>> changed_;
};

/// The backward pass of a block: runs it again, and hands the gradients on that the graph of this
/// second run has where the first one's was left. So a parameter gets its gradient once, however
/// often it is used.
class CheckpointBackward : public autograd::Node {
 public:
  CheckpointBackward(Inputs inputs, std::vector<GeneratorState> random, AutocastState autocast,
                     autograd::edge_list edges, std::function<std::vector<torch::Tensor>()> again)
      : Node(autograd::edge_list(edges)),
        edges_(std::move(edges)),
        inputs_(std::move(inputs)),
        random_(std::move(random)),
        autocast_(autocast),
        again_(std::move(again)) {}

  std::string name() const override { return "CheckpointBackward"; }
  void release_variables() override {
    again_ = nullptr;
    inputs_ = Inputs({});
    edges_.clear();
  }

  autograd::variable_list apply(autograd::variable_list&& gradients) override {
    TORCH_CHECK(again_ != nullptr, autograd::ERR_BACKWARD_TWICE);
    const bool creates_graph = torch::GradMode::is_enabled();
    inputs_.check_unchanged();
    std::vector<torch::Tensor> outputs;
    const Since since;
    {
      const AsBefore as_before(random_, autocast_);
      outputs = again_();
    }
    std::erase_if(outputs, [](const auto& output) { return !output.requires_grad(); });
    check_same(outputs);
    autograd::edge_list roots;
    autograd::variable_list given;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (gradients[i].defined()) {
        roots.push_back(autograd::impl::gradient_edge(outputs[i]));
        given.push_back(gradients[i]);
      }
    }
    if (roots.empty()) {
      return autograd::variable_list(num_outputs());
    }
    const Cut cut(roots, since, edges_);
    return autograd::Engine::get_default_engine().execute(
        roots, given, /*keep_graph=*/creates_graph, creates_graph, /*accumulate_grad=*/false,
        cut.ends());
  }

 private:
  void check_same(const std::vector<torch::Tensor>& outputs) const {
    bool is_same = outputs.size() == num_inputs();
    for (size_t i = 0; is_same && i < outputs.size(); ++i) {
      is_same = input_metadata(i).is_same_shape(outputs[i]);
    }
    if (!is_same) {
      throw_other_run();
    }
  }

  autograd::edge_list edges_;  // of which an outer block's Cut changes its own
  Inputs inputs_;
  std::vector<GeneratorState> random_;
  AutocastState autocast_;
  std::function<std::vector<torch::Tensor>()> again_;
};

}  // namespace

struct FirstRun::State {
  State(const torch::nn::Module* block, std::vector<torch::Tensor> tensors)
      : inputs(std::move(tensors)), random(random_state(block, inputs.tensors())) {}

  Inputs inputs;
  std::vector<GeneratorState> random;
  AutocastState autocast;
  WithoutAutocastCache without_cache;
  Since since;
};

FirstRun::FirstRun(const torch::nn::Module* block, std::vector<torch::Tensor> inputs)
    : state_(std::make_unique<State>(block, std::move(inputs))) {}
FirstRun::~FirstRun() = default;

void FirstRun::finish(const std::vector<torch::Tensor*>& outputs,
                      std::function<std::vector<torch::Tensor>()> again) {
  std::vector<torch::Tensor*> differentiable;
  autograd::edge_list roots;
  for (auto* output : outputs) {
    if (output->requires_grad()) {
      differentiable.push_back(output);
      roots.push_back(autograd::impl::gradient_edge(*output));
    }
  }
  if (roots.empty()) {
    return;
  }
  state_->inputs.check_unchanged();
  const auto node =
      make_node<CheckpointBackward>(std::move(state_->inputs), state_->random, state_->autocast,
                                    edges_out_of(roots, state_->since), std::move(again));
  for (auto* output : differentiable) {
    auto value = output->variable_data();
    // Where the output is a view of an input, a write to it is one to the input.
    autograd::impl::set_version_counter(value, autograd::impl::version_counter(*output));
    autograd::set_history(value, node);
    *output = value;
  }
}

}  // namespace trainer::detail
