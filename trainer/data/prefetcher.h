#pragma once
// Runs a function for k = first, first + 1, ... on threads, ahead of the one thread that takes the
// results, and hands them out in order: the threaded half of DataLoader.

#include <condition_variable>
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
/// object; between epochs, and while the ring is full, they sleep until it is half empty, so that a
/// training step is not disturbed by a wake-up for each batch.
///
/// start(), stop() and next() belong to one thread.
class Prefetcher {
 public:
  using Fetch = std::function<Batch(int64_t)>;

  /// At most `capacity` batches are held or being fetched. 0 threads: next() fetches.
  Prefetcher(int64_t num_threads, int64_t capacity);
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;
  ~Prefetcher();

  /// Begins with fetch(first), up to fetch(last - 1); `fetch` is called by several threads at a time.
  void start(Fetch fetch, int64_t first, int64_t last);

  /// The next result, or nothing after the last. Rethrows what fetch() threw for it, and then stops.
  std::optional<Batch> next();

  /// Drops what is left. Waits for calls of fetch() that are under way.
  void stop();

 private:
  struct Slot {
    Batch batch = {};
    std::exception_ptr error = nullptr;
    std::atomic<bool> ready = false;  // set and cleared under the mutex, watched without it
  };

  void run_thread();
  void fetch_into(Slot& slot, int64_t k) const;
  void wait_until_ready(const Slot& slot, std::unique_lock<std::mutex>& lock);
  Slot& slot(int64_t k) { return ring_[static_cast<size_t>(k) % ring_.size()]; }
  int64_t capacity() const { return static_cast<int64_t>(ring_.size()); }

  const int64_t num_threads_;
  std::vector<Slot> ring_;  // result k lies in slot k % capacity
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // for everything below
  std::condition_variable work_;
  std::condition_variable done_;
  Fetch fetch_;
  int64_t next_ = 0;         // result that next() returns
  int64_t claimed_ = 0;      // first result that no thread has taken on
  int64_t last_ = 0;         // end of the epoch
  int64_t num_fetching_ = 0; // threads in fetch_()
  bool filling_ = false;     // from half empty until full
  bool quit_ = false;
};

}  // namespace trainer
