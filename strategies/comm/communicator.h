#pragma once
// Collective operations on tensors among the processes that train together: Open MPI for tensors on
// the processor, NCCL for those on a GPU.
//
//   auto comm = world_communicator(torch::kCPU);
//   comm->all_reduce(loss, ReduceOp::kMean);                // the result is there
//   Work work = comm->all_reduce_async(gradients);          // goes on beside what follows
//   ...
//   work.wait();
//
// Every rank calls the same operations in the same order, with tensors of the same size and dtype;
// asynchronous ones count where they are started. A communicator carries them out in that order
// (send and recv apart); those that work on different memory may go on side by side. Set
// TRAINER_CHECK_COLLECTIVES=1 to have that checked: ranks that differ in operation, size or dtype
// are then named in a CommError instead of hanging or summing nonsense.
//
// Tensors are dense, contiguous and on the communicator's kind of device; others are refused with
// UsageError. A tensor without elements takes part like any other.
//
// One thread at a time uses a communicator.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer {

/// One collective, for implementations and messages.
struct Collective {
  enum class Kind { kAllReduce, kReduceScatter, kAllGather, kBroadcast, kAllToAll };
  Kind kind;
  torch::Tensor output;  // the only tensor of all_reduce and broadcast
  torch::Tensor input = {};
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  int64_t tag = 0;

  /// What ranks have to agree on.
  struct Form {
    Kind kind = Kind::kAllReduce;
    ReduceOp op = ReduceOp::kSum;
    int root = 0;
    torch::ScalarType dtype = torch::kFloat32;
    int64_t numel = 0;
    int64_t tag = 0;
    bool operator==(const Form&) const = default;
    /// "all_reduce (sum) of 6553600 Float elements".
    std::string describe() const;
  };
  Form form() const;
  std::string describe() const { return form().describe(); }
};

/// An operation that was started. Copies stand for the same one.
class Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual bool is_done() = 0;
    virtual void wait() = 0;
  };

  Work() = default;  ///< Done.
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// On the processor: returns when the result is in the tensor. On a GPU: what this thread puts on
  /// its current stream from now on sees the result; the host goes on. Throws CommError.
  void wait();
  /// Lets the operation go on where it needs this thread for that. Throws CommError.
  bool is_done();

 private:
  friend class Communicator;
  std::shared_ptr<State> state_;
  uint64_t number_ = 0;  // in the flight record
};

class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual torch::DeviceType device_type() const = 0;

  // What reduces takes float64, float32, bfloat16, float16 and integers (sum also complex, minimum
  // and maximum also bool); the mean, floating-point and complex numbers. bfloat16 and float16 are
  // reduced in float32 on the processor and rounded once. A minimum or maximum with NaN is NaN.
  // What only moves takes every dtype. Each throws UsageError for tensors that do not fit, and
  // CommError where the operation fails. Collective: yes.

  /// The reduction over the ranks of each element, in place.
  void all_reduce(const torch::Tensor& tensor, ReduceOp op = ReduceOp::kSum);
  Work all_reduce_async(const torch::Tensor& tensor, ReduceOp op = ReduceOp::kSum);

  /// `input` is size() equal parts; `output` gets the reduction of part rank().
  void reduce_scatter(const torch::Tensor& output, const torch::Tensor& input,
                      ReduceOp op = ReduceOp::kSum);
  Work reduce_scatter_async(const torch::Tensor& output, const torch::Tensor& input,
                            ReduceOp op = ReduceOp::kSum);

  /// `output` is size() equal parts; part r gets the `input` of rank r. `input` may be part rank()
  /// of `output` itself.
  void all_gather(const torch::Tensor& output, const torch::Tensor& input);
  /// `tag` says what is gathered, where ranks could disagree on that by mistake.
  Work all_gather_async(const torch::Tensor& output, const torch::Tensor& input, int64_t tag = 0);
  /// The inputs of all ranks, in their order; their shapes may differ, also in the number of
  /// dimensions.
  std::vector<torch::Tensor> all_gather_uneven(const torch::Tensor& input);

  /// The tensor of rank `root`, on every rank.
  void broadcast(const torch::Tensor& tensor, int root = 0);
  Work broadcast_async(const torch::Tensor& tensor, int root = 0);

  /// `input` and `output` are size() equal parts; part r of `input` goes to rank r, and part r of
  /// `output` comes from there.
  void all_to_all(const torch::Tensor& output, const torch::Tensor& input);
  Work all_to_all_async(const torch::Tensor& output, const torch::Tensor& input);
  /// The same with parts of any size: inputs[r] goes to rank r, whose size of it is that of
  /// outputs[rank()] there.
  virtual void all_to_all_uneven(const std::vector<torch::Tensor>& outputs,
                                 const std::vector<torch::Tensor>& inputs) = 0;

  /// From one rank to another; both name the same number of bytes, else CommError at the receiver.
  virtual void send(const torch::Tensor& tensor, int to) = 0;
  virtual void recv(const torch::Tensor& tensor, int from) = 0;

  /// Returns when every rank has called it.
  virtual void barrier() = 0;

  /// A communicator of the ranks that give the same color (0 or more), in the order of `key`, then
  /// of rank. Collective: yes.
  virtual std::unique_ptr<Communicator> split(int color, int key = 0) = 0;

  /// A tensor that is not initialized, in memory where operations of this communicator need no copy
  /// of it: on the processor that which ranks on one node share. Of any dtype, on its device.
  virtual torch::Tensor empty(at::IntArrayRef sizes, torch::ScalarType dtype);

  /// One tensor for all ranks, zero at first: what a rank writes, the others read once both have
  /// gone through the same barrier() or operation since. Undefined, on all of them, where the ranks
  /// share no memory. Collective: yes.
  virtual torch::Tensor shared_zeros(at::IntArrayRef sizes, torch::ScalarType dtype);

  /// Whether an operation copies tensors that empty() did not make.
  virtual bool prefers_own_memory() const { return false; }

  /// Lets operations that were started go on, without waiting: on the processor they advance only
  /// in calls of this class. Throws CommError.
  virtual void poll() {}

 protected:
  virtual void run(const Collective& collective) = 0;
  virtual Work start(const Collective& collective) = 0;
  /// Throws UsageError for a tensor that no operation can take.
  void check_tensor(const torch::Tensor& tensor, const char* operation) const;
  /// What all_to_all_uneven() and split() ask before they begin.
  void check_parts(const std::vector<torch::Tensor>& outputs,
                   const std::vector<torch::Tensor>& inputs);
  void check_split(int color);
  /// With TRAINER_CHECK_COLLECTIVES=1, before each operation: throws CommError where another rank
  /// is at another one.
  void check_agreement(const std::string& operation);
  /// The texts of all ranks, in their order, at most 255 bytes of each.
  virtual std::vector<std::string> exchange(const std::string& text) = 0;

 private:
  void check(const Collective& collective);
  void run_recorded(const Collective& collective);
  Work start_recorded(const Collective& collective);
};

/// A communicator of the whole world for tensors on this kind of device. Throws UsageError for a
/// kind that this build or machine has none for, CommError. Collective: yes.
std::unique_ptr<Communicator> world_communicator(torch::DeviceType device);

}  // namespace trainer
