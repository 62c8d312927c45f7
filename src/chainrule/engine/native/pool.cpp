#include "pool.h"

#include <exception>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kSpins = 20000;  // some 50 microseconds: longer than between two steps

inline void chainrule_pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// A forked child has no helpers: it works alone.
long chainrule_process() {
#if defined(__unix__) || defined(__APPLE__)
  return static_cast<long>(getpid());
#else
  return 0;
#endif
}

}  // namespace

ChainrulePool::ChainrulePool(int threads)
    : threads_(threads < 1 ? 1 : threads), process_(chainrule_process()) {
  try {
    for (int t = 1; t < threads_; ++t) helpers_.emplace_back([this, t] { serve(t); });
  } catch (const std::exception&) {  // as many as the system gives
    threads_ = static_cast<int>(helpers_.size()) + 1;
  }
}

ChainrulePool::~ChainrulePool() {
  if (chainrule_process() != process_) {
    for (std::thread& helper : helpers_) helper.detach();
    static_cast<void>(wake_.release());  // it would wait for those who wait for it
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_->notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ChainrulePool::serve(int thread) {
  unsigned seen = 0;
  while (true) {
    for (int i = 0; i < kSpins && job_.load(std::memory_order_acquire) == seen && !stop_; ++i) {
      chainrule_pause();
    }
    if (job_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_->wait(lock, [&] { return stop_ || job_.load() != seen; });
    }
    if (stop_) return;
    seen = job_.load(std::memory_order_acquire);
    (*work_)(thread);
    left_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void ChainrulePool::run(const std::function<void(int)>& work, bool alone) {
  if (alone || threads_ == 1 || chainrule_process() != process_) {
    active_ = 1;
    work(0);
    return;
  }
  active_ = threads_;
  work_ = &work;
  left_.store(static_cast<unsigned>(threads_ - 1));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_.fetch_add(1, std::memory_order_acq_rel);
  }
  wake_->notify_all();
  work(0);
  for (int i = 0; left_.load(std::memory_order_acquire); ++i) {
    if (i < kSpins) {
      chainrule_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ChainrulePool::barrier() {
  if (active_ == 1) return;
  const unsigned phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<unsigned>(active_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_acq_rel);
    return;
  }
  for (int i = 0; phase_.load(std::memory_order_acquire) == phase; ++i) {
    if (i < kSpins) {
      chainrule_pause();
    } else {
      std::this_thread::yield();
    }
  }
}
