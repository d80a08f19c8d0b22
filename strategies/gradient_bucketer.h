#pragma once
// Averages gradients over the ranks while the backward pass still runs: the parameters' gradients
// are gathered in buckets, and a bucket goes off as soon as its last gradient is there. Afterwards
// each .grad is a view of its bucket, which holds the mean over the ranks. Where the communicator
// takes any memory, a large gradient is a bucket of its own, which is reduced where it lies:
// without a copy, and without memory for one.
//
// A gradient's sum is in the order of the ranks, whatever bucket it is in (MPICommunicator), so
// buckets may be laid out anew at any time: after the first reduction they follow the order in
// which gradients really came. Source: Li et al. 2020, arXiv:2006.15704, sec. 3.2.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

#include <strategies/comm/communicator.h>
#include <strategies/comm_hook.h>
#include <trainer/strategy.h>

namespace trainer {

struct GradientBucketerOptions {
  int64_t bucket_bytes = int64_t{4} << 20;
  /// The same parameters get gradients in every step: those that got none in the first one are not
  /// waited for, and a change is an error.
  bool static_graph = false;
};

class GradientBucketer {
 public:
  using StepNumbers = Strategy::StepNumbers;

  /// `communicator` and `hook` (null: none) must outlive it. It takes the parameters'
  /// post-accumulate-grad hooks, and gives them back.
  GradientBucketer(torch::nn::Module& module, Communicator& communicator, CommHook* hook,
                   GradientBucketerOptions options);
  GradientBucketer(const GradientBucketer&) = delete;
  GradientBucketer& operator=(const GradientBucketer&) = delete;
  ~GradientBucketer();

  /// Whether buckets go off during the next backward pass.
  void set_eager(bool eager);
  void set_step_numbers(const StepNumbers& numbers) { step_numbers_ = numbers; }
  /// Reduces the gradients that came since the last call, and returns when they are there. Throws
  /// UsageError for a sparse gradient, and with static_graph for a parameter without one, by its
  /// name. Collective: yes.
  void finish();
  /// Their sums over the ranks, where the last finish() brought them along: on the processor, when
  /// there was something to reduce.
  const std::optional<StepNumbers>& step_number_sums() const { return sums_; }

  /// The parameters that got no gradient on any rank in the backward pass before finish(), where it
  /// was an eager one.
  const std::vector<std::string>& unused() const { return unused_; }

 private:
  struct Parameter {
    std::string name;
    torch::Tensor tensor;
    int64_t numel = 0;
    size_t bucket = 0;
    torch::Tensor slot;    // its view of the bucket, of its shape; or the gradient itself
    bool has_new = false;  // a gradient came since finish()
    bool is_in = false;    // it lies in the bucket
    bool is_expected = true;
    bool was_reduced = false;  // in some step before, while it was not frozen
  };
  struct Bucket {
    std::vector<size_t> parameters;
    bool is_in_place = false;  // one gradient, reduced where it lies
    torch::Tensor flat;        // else: gradients, then room for the tail
    torch::Tensor tail;
    int64_t missing = 0;  // parameters that are waited for
    bool is_started = false;
    Work work;
    GradientBucket of_hook;  // where there is one
    std::unique_ptr<CommHook::Reduction> reduction;
  };

  void on_gradient(size_t index);
  /// Takes in parameters that were frozen before.
  void add_parameters();
  /// Buckets of the parameters in this order.
  void lay_out(const std::vector<size_t>& order);
  void lay_out_as_they_came();
  void begin();
  void put_in(Parameter& parameter);
  void start_ready_buckets();
  void start(Bucket& bucket);
  void add_bucket(std::vector<size_t> parameters, bool is_in_place);
  void fill_tail(const torch::Tensor& tail) const;
  torch::Tensor own_tail() const;
  void settle(const torch::Tensor& tail);
  bool is_reduced(const Bucket& bucket) const;
  static bool can_carry(const Bucket& bucket);
  void check_static_graph() const;

  torch::nn::Module& module_;
  Communicator& communicator_;
  CommHook* hook_;
  GradientBucketerOptions options_;
  std::vector<Parameter> parameters_;
  std::unordered_map<const void*, size_t> known_;  // by the tensor
  std::vector<Bucket> buckets_;
  std::vector<size_t> arrivals_;  // in the first eager pass
  StepNumbers step_numbers_ = {};
  std::optional<StepNumbers> sums_;
  std::vector<std::string> unused_;
  size_t next_ = 0;  // bucket to start
  // The tail tells of every parameter whether it has a gradient, and the step numbers. It goes with
  // the last bucket of a step; where that has no room for it, on its own.
  Bucket* carrier_ = nullptr;
  bool eager_ = false;
  bool begun_ = false;
  bool learned_ = false;
  bool saw_eager_pass_ = false;  // with this layout
};

}  // namespace trainer
