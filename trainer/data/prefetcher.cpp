#include <trainer/data/prefetcher.h>

#include <dlfcn.h>

#include <chrono>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/util/thread_name.h>

namespace trainer {
namespace {

/// How long next() watches for its batch before it sleeps: about what sleeping and waking cost.
constexpr std::chrono::microseconds kWatch(2);

/// Keeps the operators that this thread calls from spreading over the cores, which belong to the
/// training step. at::set_num_threads(1) would do so for other threads too: it also sets the number
/// that threads take over at their first operator. OpenMP's and MKL's own numbers are per thread;
/// both libraries come with LibTorch and are looked up because nothing else here links them.
void run_operators_in_this_thread_only() {
  at::get_num_threads();  // this thread takes over the common number: now, and not later
  at::internal::lazy_init_num_threads();  // the same for at::parallel_for in the program itself
  for (const char* name : {"omp_set_num_threads", "MKL_Set_Num_Threads_Local"}) {
    if (void* const set_num_threads = dlsym(RTLD_DEFAULT, name)) {
      reinterpret_cast<void (*)(int)>(set_num_threads)(1);
    }
  }
}

}  // namespace

Prefetcher::Prefetcher(int64_t num_threads, int64_t capacity)
    : num_threads_(static_cast<size_t>(num_threads)), ring_(static_cast<size_t>(capacity)) {}

Prefetcher::~Prefetcher() {
  stop();
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) {
    thread.join();
  }
}

void Prefetcher::start(Fetch fetch, int64_t first, int64_t last) {
  stop();
  while (threads_.size() < num_threads_) {
    threads_.emplace_back([this] { run_thread(); });
  }
  {
    const std::lock_guard lock(mutex_);
    fetch_ = std::move(fetch);
    next_ = claimed_ = first;
    last_ = last;
    filling_ = true;
  }
  work_.notify_one();
}

std::optional<Batch> Prefetcher::next() {
  if (next_ == last_) {
    return std::nullopt;
  }
  Slot& slot = slot_of(next_);
  if (threads_.empty()) {
    fetch_into(slot, *claim());
    publish(slot);
  }
  watch(slot);
  std::unique_lock lock(mutex_);
  ready_.wait(lock, [&] { return slot.ready.load(); });
  slot.ready = false;
  std::optional<Batch> batch(std::move(slot.batch));
  const auto error = std::exchange(slot.error, nullptr);
  ++next_;
  const bool refill =
      !filling_ && claimed_ < last_ && claimed_ - next_ - num_fetching_ <= capacity() / 2;
  filling_ = filling_ || refill;
  lock.unlock();
  if (refill) {
    work_.notify_one();
  }
  if (error) {
    stop();
    std::rethrow_exception(error);
  }
  return batch;
}

/// Returns when the slot is ready, or soon.
void Prefetcher::watch(const Slot& slot) {
  if (slot.ready) {
    return;
  }
  const auto end = std::chrono::steady_clock::now() + kWatch;
  while (!slot.ready && std::chrono::steady_clock::now() < end) {
  }
}

void Prefetcher::stop() {
  std::unique_lock lock(mutex_);
  last_ = next_;
  ready_.wait(lock, [&] { return num_fetching_ == 0; });
  for (auto& slot : ring_) {
    slot.batch = {};
    slot.error = nullptr;
    slot.ready = false;
  }
}

void Prefetcher::run_thread() {
  c10::setThreadName("data_loader");
  run_operators_in_this_thread_only();
  while (const auto k = claim()) {
    fetch_into(slot_of(*k), *k);
    publish(slot_of(*k));
  }
}

/// Waits for something to fetch; nothing when the thread has to end.
std::optional<int64_t> Prefetcher::claim() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return quit_ || (filling_ && claimed_ < last_); });
  if (quit_) {
    return std::nullopt;
  }
  const int64_t k = claimed_++;
  ++num_fetching_;
  filling_ = claimed_ - next_ < capacity();
  const bool more = filling_ && claimed_ < last_;
  lock.unlock();
  if (more) {
    work_.notify_one();  // threads wake each other, not next()'s caller all of them
  }
  return k;
}

/// Needs no lock: a claimed slot belongs to the one that claimed it, until it is published.
void Prefetcher::fetch_into(Slot& slot, int64_t k) const {
  try {
    slot.batch = fetch_(k);
  } catch (...) {
    slot.error = std::current_exception();
  }
}

void Prefetcher::publish(Slot& slot) {
  {
    const std::lock_guard lock(mutex_);
    slot.ready = true;
    --num_fetching_;
  }
  ready_.notify_one();
}

}  // namespace trainer
