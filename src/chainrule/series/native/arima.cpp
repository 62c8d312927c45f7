// ARIMA of many series in one call: series/arima.py.
#include "arima_orders.h"

namespace chainrule_series {
namespace {

using Table = Array<const std::int64_t, 2>;
constexpr int kColumns = 7;  // of orders: mean, p, q, P, Q, d, D

void chainrule_arima_fit(Reals values, Ints begin, Ints end, Table orders, int season, Ints widths,
                         OutRows coefs, OutRows found, OutRows past, OutRows errors, int threads) {
  require_ragged(values, begin, end);
  const std::int64_t count = begin.size();
  const std::size_t rows = begin.size(), reach = past.shape(1), memory = errors.shape(1);
  std::size_t width = 1;
  require(widths.size() == 4 && season >= 1, "arima: four widths and a season are needed");
  for (int f = 0; f < 4; ++f) width += widths.data()[f];
  require(orders.shape(0) == rows && orders.shape(1) == kColumns && coefs.shape(0) == rows &&
              coefs.shape(1) == width && found.shape(0) == rows && found.shape(1) == 4 &&
              past.shape(0) == rows && errors.shape(0) == rows,
          "arima: an array has another shape");
  const nanobind::gil_scoped_release freely;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local ChainruleArimaSeries work;
    const std::int64_t* row = orders.data() + i * kColumns;
    const std::int64_t length = end.data()[i] - begin.data()[i];
    ChainruleArimaOrder order;
    order.mean = int(row[0]);
    for (int f = 0; f < 4; ++f) order.sizes[f] = int(row[1 + f]);
    const int d = int(row[5]), D = int(row[6]), from = order.skipped(season);
    work.prepare(values.data() + begin.data()[i], length, d, D, season, order.mean || d + D > 0);
    const int n = work.length();
    double* out = found.data() + i * 4;
    out[0] = 0, out[1] = std::max(n - from, 0), out[2] = work.loc, out[3] = work.scale;
    double* x = past.data() + i * reach;
    for (std::size_t k = 0; k < std::min<std::size_t>(reach, length); ++k) {
      x[reach - 1 - k] = work.x[length - 1 - k];
    }
    double* a = coefs.data() + i * width;
    a[0] = order.mean ? work.level() : 0;
    if (!work.flat(order.mean) && n > from) {
      work.fit(order);
      if (order.mean) a[0] += work.mean();
      out[0] = work.here().sum;
      for (int f = 0, at = 1; f < 4; at += int(widths.data()[f++])) {
        const std::vector<double>& factor = work.here().factor(f);
        std::copy(factor.begin(), factor.end(), a + at);
      }
      double* e = errors.data() + i * memory;
      for (std::size_t k = 0; k < std::min<std::size_t>(memory, n - from); ++k) {
        e[memory - 1 - k] = work.here().errors()[n - 1 - k];
      }
    }
  });
}

void chainrule_arima_orders(Reals values, Ints begin, Ints end, Ints d, Ints D, Ints means,
                            int season, Ints least, Ints most, Array<std::int64_t, 2> orders,
                            int threads) {
  require_ragged(values, begin, end);
  const std::int64_t count = begin.size();
  require(d.size() == begin.size() && D.size() == begin.size() && means.size() == begin.size() &&
              orders.shape(0) == begin.size() && orders.shape(1) == 5 && least.size() == 4 &&
              most.size() == 4 && season >= 1,
          "arima: an array has another shape");
  const nanobind::gil_scoped_release freely;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local ChainruleArimaSeries work;
    const int steps = int(d.data()[i] + D.data()[i]);
    const std::int64_t length = end.data()[i] - begin.data()[i], mean = means.data()[i];
    work.prepare(values.data() + begin.data()[i], length, int(d.data()[i]), int(D.data()[i]),
                 season, steps > 0);
    const ChainruleArimaOrder best =
        work.choose(least.data(), most.data(), mean == 0, mean == 1);
    std::int64_t* out = orders.data() + i * 5;
    *out++ = best.mean;
    for (int f = 0; f < 4; ++f) *out++ = best.sizes[f];
  });
}

}  // namespace
}  // namespace chainrule_series

void chainrule_bind_arima(nanobind::module_& m) {
  using namespace chainrule_series;
  m.def("chainrule_arima_fit", &chainrule_arima_fit,
        "values, begin, end; orders [N, 7] (mean, p, q, P, Q, d, D), season, widths [4] of the "
        "factors in coefs; coefs [N, 1 + widths] zeroed, found [N, 4] (sum of squares, points in "
        "it, loc, scale), past and errors [N, any] zeroed, the newest last; threads.");
  m.def("chainrule_arima_orders", &chainrule_arima_orders,
        "values, begin, end, d, D, means [N] (0 never, 1 always, 2 either), season, least and most "
        "[4] of p, q, P, Q; orders [N, 5] (mean, p, q, P, Q); threads.");
}
