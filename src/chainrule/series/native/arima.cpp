// ARIMA of many series in one call: series/arima.py.
#include "arima_orders.h"

namespace chainrule_series {
namespace {

using Table = Array<const std::int64_t, 2>;
constexpr int kColumns = 7;  // of orders: mean, p, q, P, Q, d, D
constexpr std::int64_t kMostLags = 10000;      // of a factor: their square is an int
constexpr std::int64_t kMostPoints = 1 << 29;  // of a series, and lags in all: so is three times it
constexpr std::int64_t kMostPlaces = 1 << 20;  // of a search

bool between(const std::int64_t* least, const std::int64_t* most) {
  return 0 <= *least && *least <= *most && *most <= kMostLags;
}

// A season longer than the series says no more than one step more than it.
int within(std::int64_t season, std::int64_t length) {
  return int(std::min(season, length + 1));
}

void require_sizes(const std::int64_t* sizes, std::int64_t season, std::int64_t length) {
  constexpr std::int64_t none = 0;
  require(length <= kMostPoints, "arima: a series is too long; give its last points only");
  std::int64_t lags = 0;
  for (int f = 0; f < 4; ++f) {
    require(between(&none, sizes + f), "arima: an order is below 0 or above 10000");
    lags += sizes[f] * (f < 2 ? 1 : within(season, length));
  }
  require(lags <= kMostPoints, "arima: the seasonal lags are too long");
}

void require_differences(std::int64_t d, std::int64_t D, std::int64_t season,
                         std::int64_t length) {
  const std::int64_t last = std::max<std::int64_t>(length - 1, 0);
  require(0 <= D && D <= last / season && 0 <= d && d <= last - D * season,
          "arima: a series is shorter than its differences");
}

void chainrule_arima_fit(Reals values, Ints begin, Ints end, Table orders, std::int64_t period,
                         Ints widths, OutRows coefs, OutRows found, OutRows past, OutRows errors,
                         int threads) {
  require_ragged(values, begin, end);
  const std::int64_t count = begin.size();
  const std::size_t rows = begin.size(), reach = past.shape(1), memory = errors.shape(1);
  std::int64_t width = 1;
  require(widths.size() == 4 && period >= 1, "arima: four widths and a season are needed");
  require_sizes(widths.data(), 1, 0);
  for (int f = 0; f < 4; ++f) width += widths.data()[f];
  require(orders.shape(0) == rows && orders.shape(1) == kColumns && coefs.shape(0) == rows &&
              std::int64_t(coefs.shape(1)) == width && found.shape(0) == rows &&
              found.shape(1) == 4 && past.shape(0) == rows && errors.shape(0) == rows,
          "arima: an array has another shape");
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t* row = orders.data() + i * kColumns;
    const std::int64_t length = end.data()[i] - begin.data()[i];
    require_sizes(row + 1, period, length);
    require_differences(row[5], row[6], period, length);
    require(row[0] == 0 || row[0] == 1, "arima: there is one mean or none");
    for (int f = 0; f < 4; ++f) {
      require(row[1 + f] <= widths.data()[f], "arima: an order is above its width");
    }
  }
  const nanobind::gil_scoped_release freely;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local ChainruleArimaSeries work;
    const std::int64_t* row = orders.data() + i * kColumns;
    const std::int64_t length = end.data()[i] - begin.data()[i];
    const int season = within(period, length);
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
                            std::int64_t period, Ints least, Ints most,
                            Array<std::int64_t, 2> orders, int threads) {
  require_ragged(values, begin, end);
  const std::int64_t count = begin.size();
  require(d.size() == begin.size() && D.size() == begin.size() && means.size() == begin.size() &&
              orders.shape(0) == begin.size() && orders.shape(1) == 5 && least.size() == 4 &&
              most.size() == 4 && period >= 1,
          "arima: an array has another shape");
  std::int64_t places = 2;
  for (int f = 0; f < 4; ++f) {
    require(between(least.data() + f, most.data() + f), "arima: orders between none");
    places *= most.data()[f] - least.data()[f] + 1;
    require(places <= kMostPlaces, "arima: too many orders to choose from");
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t length = end.data()[i] - begin.data()[i];
    require_sizes(most.data(), period, length);
    require_differences(d.data()[i], D.data()[i], period, length);
  }
  const nanobind::gil_scoped_release freely;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local ChainruleArimaSeries work;
    const int steps = int(d.data()[i] + D.data()[i]);
    const std::int64_t length = end.data()[i] - begin.data()[i], mean = means.data()[i];
    work.prepare(values.data() + begin.data()[i], length, int(d.data()[i]), int(D.data()[i]),
                 within(period, length), steps > 0);
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
  define(m, "chainrule_arima_fit", &chainrule_arima_fit,
         "values, begin, end; orders [N, 7] (mean, p, q, P, Q, d, D), season, widths [4] of the "
         "factors in coefs; coefs [N, 1 + widths] zeroed, found [N, 4] (sum of squares, points in "
         "it, loc, scale), past and errors [N, any] zeroed, the newest last; threads.");
  define(m, "chainrule_arima_orders", &chainrule_arima_orders,
         "values, begin, end, d, D, means [N] (0 never, 1 always, 2 either), season, least and "
         "most [4] of p, q, P, Q; orders [N, 5] (mean, p, q, P, Q); threads.");
}
