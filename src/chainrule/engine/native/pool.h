// Threads that run one function together and meet at barriers inside it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

class ChainrulePool {
 public:
  explicit ChainrulePool(int threads);
  ~ChainrulePool();
  ChainrulePool(const ChainrulePool&) = delete;
  ChainrulePool& operator=(const ChainrulePool&) = delete;

  int threads() const { return threads_; }
  // Calls work(0) here and work(1), work(2), … on the others; returns when all have. `alone`:
  // only work(0), and barriers do nothing.
  void run(const std::function<void(int)>& work, bool alone);
  // Waits until every thread of this run is here. What they wrote before is seen after.
  void barrier();
  // How many threads the present run has.
  int active() const { return active_; }

 private:
  void serve(int thread);
  int threads_;
  const long process_;
  int active_ = 1;
  std::vector<std::thread> helpers_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<unsigned> job_{0}, left_{0}, arrived_{0}, phase_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::unique_ptr<std::condition_variable> wake_ = std::make_unique<std::condition_variable>();
};
