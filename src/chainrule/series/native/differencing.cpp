// KPSS and the strength of a season for every series: series/differencing.py and series/stl.py,
// the same numbers. Series are scaled to at most 1 in size first.
#include <cmath>
#include <memory>
#include <unordered_map>

#include "linear.h"

namespace chainrule_series {
namespace {

constexpr double kCritical = 0.463;  // KPSS around a level at 5 %
constexpr double kFlat = 1e-12;      // moves less than this part of its size: constant
constexpr int kWindow = 11, kInner = 2;

std::vector<double> sized(const double* y, std::int64_t n) {
  double size = 0;
  for (std::int64_t t = 0; t < n; ++t) size = std::max(size, std::fabs(y[t]));
  if (size == 0) size = 1;
  std::vector<double> x(y, y + n);
  for (double& v : x) v /= size;
  return x;
}

bool flat(const double* x, std::int64_t n) {
  if (n == 0) return true;
  const auto ends = std::minmax_element(x, x + n);
  return !(*ends.second - *ends.first > kFlat);
}

double mean(const double* x, std::int64_t n) {
  double sum = 0;
  for (std::int64_t t = 0; t < n; ++t) sum += x[t];
  return sum / n;
}

double variance(const double* x, std::int64_t n) {
  const double centre = mean(x, n);
  double sum = 0;
  for (std::int64_t t = 0; t < n; ++t) sum += (x[t] - centre) * (x[t] - centre);
  return sum;
}

bool kpss_rejects(const double* x, std::int64_t n, std::vector<double>& e) {
  e.assign(x, x + n);
  for (int twice = 0; twice < 2; ++twice) {
    const double centre = mean(e.data(), n);
    for (double& v : e) v -= centre;
  }
  const auto lags = static_cast<std::int64_t>(std::floor(3 * std::sqrt(double(n)) / 13));
  double spread = 0, walk = 0, walked = 0;
  for (std::int64_t t = 0; t < n; ++t) {
    spread += e[t] * e[t];
    walk += e[t];
    walked += walk * walk;
  }
  for (std::int64_t k = 1; k <= std::min(lags, n - 1); ++k) {
    double sum = 0;
    for (std::int64_t t = k; t < n; ++t) sum += e[t] * e[t - k];
    spread += 2 * (1 - k / (lags + 1.0)) * sum;
  }
  return walked / (n * spread) > kCritical;
}

std::int64_t ndiffs(const double* y, std::int64_t n, std::int64_t D, std::int64_t season,
                    std::int64_t most, std::vector<double>& e) {
  std::vector<double> x = sized(y, n);
  for (std::int64_t step = 0; step < D && n > 0; ++step) {
    n = std::max<std::int64_t>(0, n - season);
    for (std::int64_t t = 0; t < n; ++t) x[t] = x[t + season] - x[t];
  }
  std::int64_t d = 0;
  for (; d < most && !flat(x.data(), n) && kpss_rejects(x.data(), n, e); ++d) {
    --n;
    for (std::int64_t t = 0; t < n; ++t) x[t] = x[t + 1] - x[t];
  }
  return d;
}

// Local regression is a weighted sum whose weights depend on the place and the length alone.
class Loess {
 public:
  Loess(std::int64_t window, int degree, std::int64_t beyond)
      : window_(window), half_(window / 2), degree_(degree), beyond_(beyond), middle_(window) {
    for (std::int64_t k = 0; k < window; ++k) middle_[k] = tricube(std::abs(k - half_), half_);
    double sum = 0;
    for (double w : middle_) sum += w;
    for (double& w : middle_) w /= sum;
  }

  // Places -beyond .. n - 1 + beyond, to every stride-th of out.
  void run(const double* y, std::int64_t n, double* out, std::int64_t stride) {
    const std::int64_t taken = std::min(n, window_);
    const double* kept = edges(n);
    own_.resize(taken);
    for (std::int64_t place = -beyond_; place < n + beyond_; ++place) {
      const double* x = y + left(place, n);
      const double* w = middle_.data();
      if (!inner(place, n) && kept) {
        w = kept, kept += taken;
      } else if (!inner(place, n)) {
        w = own_.data(), weigh(place, n, own_.data());
      }
      double sum = 0;
      for (std::int64_t k = 0; k < taken; ++k) sum += w[k] * x[k];
      out[(place + beyond_) * stride] = sum;
    }
  }

 private:
  static double tricube(double far, double reach) {
    if (far <= 0.001 * reach) return 1;
    if (far > 0.999 * reach) return 0;
    const double r = far / reach, s = 1 - r * r * r;
    return s * s * s;
  }

  // Where the window of a place begins, and whether it is centred on the place.
  std::int64_t left(std::int64_t place, std::int64_t n) const {
    return std::min(std::max<std::int64_t>(place - half_, 0), n - std::min(n, window_));
  }
  bool inner(std::int64_t place, std::int64_t n) const {
    return half_ <= place && place + half_ < n;
  }

  // The weights of all places whose window is not centred on them, one after the other. Null
  // where they are too many to keep.
  const double* edges(std::int64_t n) {
    const auto found = edges_.find(n);
    if (found != edges_.end()) return found->second.data();
    const std::int64_t taken = std::min(n, window_);
    const std::int64_t places = std::min(n, window_ - 1) + 2 * beyond_, size = places * taken;
    if (places > kKept / taken) return nullptr;
    if (held_ + size > kKept) edges_.clear(), held_ = 0;
    std::vector<double> rows(size);
    double* w = rows.data();
    for (std::int64_t place = -beyond_; place < n + beyond_; ++place) {
      if (!inner(place, n)) weigh(place, n, w), w += taken;
    }
    held_ += size;
    return edges_.emplace(n, std::move(rows)).first->second.data();
  }

  void weigh(std::int64_t place, std::int64_t n, double* w) const {
    const std::int64_t taken = std::min(n, window_), from = left(place, n);
    double reach = double(std::max(place - from, from + taken - 1 - place));
    if (window_ > n) reach += double((window_ - n) / 2);
    double mass = 0, first = 0, second = 0;
    for (std::int64_t k = 0; k < taken; ++k) {
      const double off = double(from + k - place);
      w[k] = tricube(std::fabs(off), reach);
      mass += w[k];
      first += w[k] * off;
      second += w[k] * off * off;
    }
    if (!(mass > 0)) {
      w[std::min(std::max<std::int64_t>(place, 0), n - 1) - from] = 1;
      return;
    }
    const double centre = first / mass, spread = second / mass - centre * centre;
    const bool wide = degree_ && std::sqrt(std::max(spread, 0.0)) > 0.001 * double(n - 1);
    for (std::int64_t k = 0; k < taken; ++k) {
      const double off = double(from + k - place);
      w[k] *= (wide ? 1 - centre * (off - centre) / spread : 1) / mass;
    }
  }

  static constexpr std::int64_t kKept = 1 << 20;  // weights: 8 MB a thread
  std::int64_t window_, half_;
  int degree_;
  std::int64_t beyond_;
  std::int64_t held_ = 0;
  std::vector<double> middle_, own_;
  std::unordered_map<std::int64_t, std::vector<double>> edges_;
};

// in [n + window - 1] -> out [n], in place.
void moving_mean(std::vector<double>& x, std::int64_t n, std::int64_t window) {
  double sum = 0;
  for (std::int64_t k = 0; k < window; ++k) sum += x[k];
  for (std::int64_t t = 0; t < n; ++t) {
    const double gone = x[t];
    x[t] = sum / window;
    if (t + 1 < n) sum += x[t + window] - gone;
  }
}

struct Season {
  std::int64_t season;
  Loess years, lows, highs;
  std::vector<double> rest, part, longer, slow, low, trend, seasonal;

  explicit Season(std::int64_t season)
      : season(season),
        years(kWindow, 0, 1),
        lows(season + 1 - season % 2, 1, 0),
        highs(odd(1.5 * double(season) / (1 - 1.5 / kWindow)), 1, 0) {}

  static std::int64_t odd(double x) {
    const auto up = static_cast<std::int64_t>(std::ceil(x));
    return up + 1 - up % 2;
  }

  double strength(const double* y, std::int64_t n) {
    const std::vector<double> x = sized(y, n);
    if (flat(x.data(), n)) return 0;
    const std::int64_t width = n + 2 * season;
    trend.assign(n, 0);
    rest.resize(n);
    low.resize(n);
    seasonal.resize(n);
    for (int sweep = 0; sweep < kInner; ++sweep) {
      longer.resize(width + season);
      for (std::int64_t phase = 0; phase < season; ++phase) {
        part.clear();
        for (std::int64_t t = phase; t < n; t += season) part.push_back(x[t] - trend[t]);
        years.run(part.data(), part.size(), longer.data() + phase, season);
      }
      slow.assign(longer.begin(), longer.begin() + width);
      moving_mean(slow, width - season + 1, season);
      moving_mean(slow, n + 2, season);
      moving_mean(slow, n, 3);
      lows.run(slow.data(), n, low.data(), 1);
      for (std::int64_t t = 0; t < n; ++t) seasonal[t] = longer[t + season] - low[t];
      for (std::int64_t t = 0; t < n; ++t) rest[t] = x[t] - seasonal[t];
      highs.run(rest.data(), n, trend.data(), 1);
    }
    for (std::int64_t t = 0; t < n; ++t) rest[t] = x[t] - trend[t];
    const double within = variance(rest.data(), n);
    for (std::int64_t t = 0; t < n; ++t) rest[t] -= seasonal[t];
    const double without = variance(rest.data(), n);
    return within > 0 ? std::min(std::max(1 - without / within, 0.0), 1.0) : 0;
  }
};

void bound_ndiffs(Reals values, Ints begin, Ints end, Ints D, std::int64_t season,
                  std::int64_t most, OutInts out, int threads) {
  require_ragged(values, begin, end);
  require(out.size() == begin.size() && D.size() == begin.size(),
          "series: out or D has another length than begin");
  require(season > 0, "series: a season has one step or more");
  nanobind::gil_scoped_release release;
  over_series(begin.size(), threads, [&](std::int64_t i) {
    thread_local std::vector<double> e;
    const std::int64_t from = begin.data()[i];
    out.data()[i] = ndiffs(values.data() + from, end.data()[i] - from, D.data()[i], season, most,
                           e);
  });
}

void bound_strength(Reals values, Ints begin, Ints end, std::int64_t season, OutReals out,
                    int threads) {
  require_ragged(values, begin, end);
  require(season > 1, "series: a season has two steps or more");
  require(out.size() == begin.size(), "series: out has another length than begin");
  nanobind::gil_scoped_release release;
  over_series(begin.size(), threads, [&](std::int64_t i) {
    thread_local std::unique_ptr<Season> work;
    const std::int64_t from = begin.data()[i], n = end.data()[i] - from;
    out.data()[i] = 0;
    if (n <= season || n - season <= season) return;  // two seasons or less
    if (!work || work->season != season) work = std::make_unique<Season>(season);
    out.data()[i] = work->strength(values.data() + from, n);
  });
}

}  // namespace
}  // namespace chainrule_series

void chainrule_bind_differencing(nanobind::module_& m) {
  using namespace chainrule_series;
  define(m, "chainrule_series_ndiffs", &bound_ndiffs,
         "values, begin, end, D, season, most, out [N], threads: differences until KPSS accepts.");
  define(m, "chainrule_series_strength", &bound_strength,
         "values, begin, end, season, out [N], threads: the strength of the season by STL.");
}
