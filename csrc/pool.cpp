// One pool a process. Its threads wait on a condition variable, but look for the next search for some microseconds
// first, for searches come in swarms. The pool is never destroyed: its threads end with the process.
#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace athsearch {

namespace {

constexpr int kLooks = 100;  // at a yield each, a fraction of a microsecond where nobody else wants the processor

class Pool {
 public:
  void abandon() { is_abandoned_ = true; }

  void run(unsigned n_threads, const std::function<void(unsigned)>& body) {
    if (n_threads < 2 || is_taken_.test_and_set(std::memory_order_acquire)) {
      body(0);
      return;
    }
    struct Release {
      std::atomic_flag& taken;
      ~Release() { taken.clear(std::memory_order_release); }
    } release{is_taken_};
    start_threads(n_threads - 1);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      error_ = nullptr;
      n_called_ = n_threads - 1;
      round_.fetch_add(1, std::memory_order_release);
    }
    begin_.notify_all();
    guarded(0);
    if (is_abandoned_) throw std::runtime_error("forked during a search, by a signal's handler");
    for (int look = 0; look < kLooks && n_busy_.load(std::memory_order_acquire); ++look) std::this_thread::yield();
    std::unique_lock<std::mutex> lock(mutex_);
    n_called_ = 0;  // there is nothing left to do: nobody need wait for a thread that has not woken up yet
    end_.wait(lock, [this] { return n_busy_.load(std::memory_order_acquire) == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void start_threads(unsigned n_wanted) {
    if (n_started_ >= n_wanted) return;
    sigset_t most, before;  // the host program's signals are not for these threads, but their own faults are
    sigfillset(&most);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&most, fault);
    pthread_sigmask(SIG_SETMASK, &most, &before);
    try {
      while (n_started_ < n_wanted) {
        std::thread(&Pool::work, this, n_started_ + 1, round_.load(std::memory_order_relaxed)).detach();
        ++n_started_;
      }
    } catch (const std::exception&) {
      // The system gives no more threads: those there are do all of the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void work(unsigned thread, uint64_t seen) {
    for (;;) {
      for (int look = 0; look < kLooks && round_.load(std::memory_order_acquire) == seen; ++look)
        std::this_thread::yield();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        begin_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
        seen = round_.load(std::memory_order_relaxed);
        if (thread > n_called_) continue;
        n_busy_.fetch_add(1, std::memory_order_relaxed);
      }
      guarded(thread);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (n_busy_.fetch_sub(1, std::memory_order_release) == 1) end_.notify_one();
    }
  }

  void guarded(unsigned thread) {
    try {
      (*body_)(thread);
    } catch (...) {
      if (is_abandoned_) throw;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  bool is_abandoned_ = false;                     // in a child forked by the body: threads and locks are left behind
  std::atomic_flag is_taken_ = ATOMIC_FLAG_INIT;  // by the search that has the threads
  std::mutex mutex_;                              // guards what follows
  std::condition_variable begin_, end_;
  const std::function<void(unsigned)>* body_ = nullptr;
  std::exception_ptr error_;
  unsigned n_started_ = 0, n_called_ = 0;
  std::atomic<unsigned> n_busy_{0};  // threads at work on the body, but for the caller's
  std::atomic<uint64_t> round_{0};   // of searches
};

Pool* pool = new Pool;  // NOLINT: see above

// A child of fork() has none of the threads, and its copies of the locks may be held for ever.
void abandon_pool() {
  pool->abandon();
  pool = new Pool;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, abandon_pool);

}  // namespace

void run_parallel(unsigned n_threads, const std::function<void(unsigned)>& body) { pool->run(n_threads, body); }

}  // namespace athsearch
