// What the files of series/native share: many series in one array, and threads over them.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

namespace chainrule_series {

template <class T, int N>
using Array = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;
using Reals = Array<const double, 1>;
using Ints = Array<const std::int64_t, 1>;
using OutReals = Array<double, 1>;
using OutRows = Array<double, 2>;
using OutInts = Array<std::int64_t, 1>;

inline void require(bool fine, const char* message) {
  if (!fine) throw std::invalid_argument(message);
}

// Arrays come as they are: a converted copy would carry the results away with it.
template <class Arg>
constexpr auto taken() {
  if constexpr (std::is_arithmetic_v<Arg>) {
    return nanobind::arg();
  } else {
    return nanobind::arg().noconvert();
  }
}

template <class... Args>
void define(nanobind::module_& m, const char* name, void (*f)(Args...), const char* doc) {
  m.def(name, f, doc, taken<Args>()...);
}

// Series i is values[begin[i] .. end[i]).
inline void require_ragged(const Reals& values, const Ints& begin, const Ints& end) {
  require(begin.size() == end.size(), "series: begin and end differ in length");
  for (std::size_t i = 0; i < begin.size(); ++i) {
    require(0 <= begin.data()[i] && begin.data()[i] <= end.data()[i] &&
                end.data()[i] <= static_cast<std::int64_t>(values.size()),
            "series: a bound lies outside the values");
  }
}

// work(i) for every series, a block at a time, on so many threads. Each series is one thread's
// own, so nothing depends on how many there are. What one throws comes out here, when all have
// ended. Call it with the GIL released.
template <class Work>
void over_series(std::int64_t count, int threads, const Work& work) {
  constexpr std::int64_t kBlock = 64;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failed;
  std::mutex mutex;
  const auto serve = [&]() noexcept {
    try {
      for (std::int64_t at; (at = next.fetch_add(kBlock)) < count;) {
        for (std::int64_t i = at; i < std::min(at + kBlock, count); ++i) work(i);
      }
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> alone(mutex);
      failed = std::current_exception();
    }
  };
  const auto most = std::min<std::int64_t>(threads, (count + kBlock - 1) / kBlock);
  std::vector<std::thread> helpers;
  try {
    for (std::int64_t t = 1; t < most; ++t) helpers.emplace_back(serve);
  } catch (...) {  // no more threads to be had: those that are there do it
  }
  serve();
  for (auto& helper : helpers) helper.join();
  if (failed) std::rethrow_exception(failed);
}

}  // namespace chainrule_series

void chainrule_bind_ar(nanobind::module_& m);
void chainrule_bind_arima(nanobind::module_& m);
void chainrule_bind_regression(nanobind::module_& m);
void chainrule_bind_smoothing(nanobind::module_& m);
