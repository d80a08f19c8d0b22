#pragma once
// Runs a function for k = first, first + 1, ... on threads, ahead of the one thread that takes the
// results, and hands them out in order: the threaded half of DataLoader.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <trainer/core/batch.h>

namespace trainer {

/// Threads that fill a ring of batches. They start with the first start() and last as long as the
/// object. Between epochs they sleep, and from when the ring is full until it is half empty, so
/// that a training step is not disturbed by a wake-up for each batch.
///
/// start(), stop() and next() are for one thread.
class Prefetcher {
 public:
  using Fetch = std::function<Batch(int64_t)>;

  /// At most `capacity` batches are ready or being fetched. 0 threads: next() fetches.
  Prefetcher(int64_t num_threads, int64_t capacity);
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;
  ~Prefetcher();

  /// Begins with fetch(first), up to fetch(last - 1), several at a time; stops what is under way.
  void start(Fetch fetch, int64_t first, int64_t last);

  /// The next result, or nothing after the last one. Rethrows what fetch() threw for it; that ends
  /// the epoch.
  std::optional<Batch> next();

  /// Drops what has not been taken. Waits for the calls of fetch() that are under way.
  void stop();

 private:
  struct Slot {
    Batch batch = {};
    std::exception_ptr error = nullptr;
    std::atomic<bool> ready = false;  // changes under the mutex, but is watched without it
  };

  void run_thread();
  std::optional<int64_t> claim();
  void fetch_into(Slot& slot, int64_t k) const;
  void publish(Slot& slot);
  static void watch(const Slot& slot);

  Slot& slot_of(int64_t k) { return ring_[static_cast<size_t>(k) % ring_.size()]; }
  int64_t capacity() const { return static_cast<int64_t>(ring_.size()); }

  const size_t num_threads_;
  std::vector<Slot> ring_;
  std::vector<std::thread> threads_;

  std::mutex mutex_;               // for all below
  std::condition_variable work_;   // threads wait for something to claim
  std::condition_variable ready_;  // next() waits for its batch, stop() for the threads
  Fetch fetch_ = nullptr;
  int64_t next_ = 0;          // what next() returns
  int64_t claimed_ = 0;       // what the next free thread fetches
  int64_t last_ = 0;          // end of the epoch
  int64_t num_fetching_ = 0;  // calls of fetch_() under way
  bool filling_ = false;      // from half empty until full
  bool quit_ = false;
};

}  // namespace trainer
